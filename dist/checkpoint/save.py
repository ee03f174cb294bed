"""Saving: every rank writes its own ranges, rank 0 commits. All ranks call together; all learn how it went."""

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from phalanx import __version__
from phalanx.dist.checkpoint import directory, plan, shard_file
from phalanx.dist.checkpoint.entries import Entry
from phalanx.dist.checkpoint.gathering import gather_parts
from phalanx.dist.checkpoint.layout import Range
from phalanx.dist.checkpoint.manifest import Manifest, ShardRun, StoredTensor
from phalanx.dist.comm.collectives import broadcast_object, gather_to_main
from phalanx.dist.comm.process_group import World


class SaveFailed(RuntimeError):
    """A checkpoint could not be written; older ones are as they were."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says besides its tensors."""

    step: int
    samples: int
    strategy: str
    experiment: str
    state: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)


def save(
    world: World, checkpoints: Path, entries: Sequence[Entry], progress: CheckpointInfo, smallest_file: int = plan.SMALLEST_FILE
) -> Path:
    """Writes and commits a checkpoint from the tensors themselves.

    Args:
        entries: this rank's view of everything, in an order that all ranks share.
        smallest_file: bytes; ranks that have less on average share files.

    Raises:
        SaveFailed: on every rank, where any rank could not write.
    """
    tensors = plan.tensor_infos(entries)
    together = plan.ranks_a_file(tensors, world.ranks.world, smallest_file)
    mine = plan.parts(plan.own_ranges(entries, world.ranks.rank, world.ranks.world, together))
    return write(world, checkpoints, tensors, mine, together, progress)


def write(
    world: World,
    checkpoints: Path,
    tensors: Sequence[plan.TensorInfo],
    mine: Sequence[plan.Part],
    together: int,
    progress: CheckpointInfo,
    refused: Callable[[], str | None] = lambda: None,
) -> Path:
    """Writes and commits what all ranks give.

    Args:
        tensors: all there are, the same on every rank.
        mine: this rank's parts.
        together: ranks that share a file.
        refused: why nothing must be written any more, if so; asked on rank 0 before anything is, and before the commit.

    Raises:
        SaveFailed: on every rank, where any rank could not write.
    """
    aside, error = "", None
    if world.ranks.is_main:
        try:
            _heed(refused)
            refuse_too_little_room(checkpoints, plan.whole_bytes(tensors))
            aside = str(directory.prepare(checkpoints, progress.step))
        except (OSError, SaveFailed) as problem:
            error = words(problem, checkpoints)
    first = broadcast_object(world, {"aside": aside, "error": error})
    if first["error"]:
        raise SaveFailed(first["error"])
    folder = Path(first["aside"])
    if together > 1:
        mine = gather_parts(world, mine, together)
    index = {tensor.name: number for number, tensor in enumerate(tensors)}
    contents, errors = ShardContents(len(tensors)), []
    for report in gather_to_main(world, _write_mine(folder, mine, world.ranks.rank, index)):
        if "error" in report:
            errors.append(report["error"])
        else:
            contents.add(report["files"])
    if world.ranks.is_main:
        if not errors:
            try:
                _heed(refused)
                directory.commit(folder, progress.step, _manifest(world, tensors, progress, contents))
            except (OSError, SaveFailed) as problem:
                errors.append(words(problem, folder))
        if errors:
            shutil.rmtree(folder, ignore_errors=True)  # gives the space back; what is left the next save removes
    errors = broadcast_object(world, errors)
    if errors:
        raise SaveFailed(errors[0])
    return directory.step_directory(checkpoints, progress.step)


def _heed(refused: Callable[[], str | None]) -> None:
    if (reason := refused()) is not None:
        raise SaveFailed(reason)


def words(problem: Exception, place: Path) -> str:
    return f"{problem.filename or place}: {problem.strerror or problem}" if isinstance(problem, OSError) else str(problem)


def refuse_too_little_room(checkpoints: Path, needed: int) -> None:
    """Said before anything is written; where a quota counts, the write itself will fail."""
    status = os.statvfs(checkpoints)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise SaveFailed(f"{checkpoints}: {needed / 1e6:.1f} MB are needed, and {free / 1e6:.1f} MB are free on the disk")


def _write_mine(aside: Path, mine: Sequence[plan.Part], rank: int, index: Mapping[str, int]) -> dict[str, Any]:
    """Writes this rank's files; says what is in them, or what went wrong."""
    written = []
    try:
        if not aside.is_dir():
            raise OSError(f"rank {rank} does not see {aside}; all ranks need the same file system")
        for number, group in enumerate(plan.files(mine)):
            name = plan.file_name(rank, number)
            file_sum = shard_file.write(aside / name, [part.segment() for part in group])
            ranges = [[index[part.name], part.range.start, part.range.stop] for part in group]
            written.append({"file": name, "sum": file_sum.to_json(), "ranges": ranges})
    except OSError as error:
        return {"error": words(error, aside)}
    return {"files": written}


def versions() -> dict[str, str]:
    return {"phalanx": __version__, "torch": torch.__version__, "python": platform.python_version()}


class ShardContents:
    """What the files of all ranks hold, put together file by file: a few numbers a tensor however many ranks there are.

    Rank 0 goes through every range of every rank, ten million with a thousand ranks: so plain lists and comparisons.
    """

    def __init__(self, tensors: int):
        self.files: dict[str, dict[str, Any]] = {}
        # Of each tensor its runs: first file, start, stop, elements of a piece, file that the next piece would be in.
        self._runs: list[list[list[int]]] = [[] for _ in range(tensors)]

    def add(self, files: Sequence[Mapping[str, Any]]) -> None:
        """The next rank's files: name, sum, and `[tensor, start, stop]` of its ranges."""
        for file in files:
            number = len(self.files)
            self.files[file["file"]] = file["sum"]
            for tensor, start, stop in file["ranges"]:
                runs = self._runs[tensor]
                last = runs[-1] if runs else None
                if last is None or start != last[2] or number != last[4] or stop - start > last[3]:
                    runs.append([number, start, stop, stop - start, number + 1])
                    continue
                last[2] = stop
                # Only a run's last piece may be short.
                last[4] = number + 1 if stop - start == last[3] else -1

    def runs(self, tensor: int) -> tuple[ShardRun, ...]:
        ordered = sorted(self._runs[tensor], key=lambda run: run[1])
        return tuple(ShardRun(file, Range(start, stop), piece) for file, start, stop, piece, _ in ordered)


def _manifest(world: World, tensors: Sequence[plan.TensorInfo], progress: CheckpointInfo, contents: ShardContents) -> Manifest:
    names = list(contents.files)
    return Manifest(
        step=progress.step,
        samples=progress.samples,
        world_size=world.ranks.world,
        strategy=progress.strategy,
        experiment=progress.experiment,
        versions=versions(),
        state=progress.state,
        metrics=progress.metrics,
        files=contents.files,
        tensors={t.name: StoredTensor(t.kind, t.dtype, t.shape, contents.runs(i), names) for i, t in enumerate(tensors)},
    )
