"""Saving: every rank writes its own ranges, rank 0 commits. All ranks call together; all get the result."""

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
    """A checkpoint could not be written; older ones are unchanged."""


@dataclass(frozen=True)
class CheckpointInfo:
    """The content of a checkpoint besides its tensors."""

    step: int
    samples: int
    strategy: str
    experiment: str
    state: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)


def save(
    world: World, checkpoints: Path, entries: Sequence[Entry], progress: CheckpointInfo, smallest_file: int = plan.SMALLEST_FILE
) -> Path:
    """Writes and commits a checkpoint directly from the tensors.

    Args:
        entries: this rank's entries, in the same order on all ranks.
        smallest_file: bytes; with less per rank on average, ranks share files.

    Raises:
        SaveFailed: on every rank, if any rank could not write.
    """
    tensors = plan.tensor_infos(entries)
    together = plan.ranks_per_file(tensors, world.ranks.world, smallest_file)
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
    """Writes and commits the parts of all ranks.

    Args:
        tensors: all tensors, the same on every rank.
        mine: this rank's parts.
        together: ranks per file.
        refused: returns why nothing may be written any more, or None; called on rank 0 before writing and before the commit.

    Raises:
        SaveFailed: on every rank, if any rank could not write.
    """
    aside, error = "", None
    if world.ranks.is_main:
        try:
            _heed(refused)
            refuse_too_little_space(checkpoints, plan.total_bytes(tensors))
            aside = str(directory.prepare(checkpoints, progress.step))
        except (OSError, SaveFailed) as problem:
            error = reason(problem, checkpoints)
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
                errors.append(reason(problem, folder))
        if errors:
            shutil.rmtree(folder, ignore_errors=True)  # frees the space; the next save removes the rest
    errors = broadcast_object(world, errors)
    if errors:
        raise SaveFailed(errors[0])
    return directory.step_directory(checkpoints, progress.step)


def _heed(refused: Callable[[], str | None]) -> None:
    if (reason := refused()) is not None:
        raise SaveFailed(reason)


def reason(problem: Exception, place: Path) -> str:
    return f"{problem.filename or place}: {problem.strerror or problem}" if isinstance(problem, OSError) else str(problem)


def refuse_too_little_space(checkpoints: Path, needed: int) -> None:
    """Refuses before anything is written; with a quota, the write itself will fail."""
    status = os.statvfs(checkpoints)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise SaveFailed(f"{checkpoints}: {needed / 1e6:.1f} MB are needed, and {free / 1e6:.1f} MB are free on the disk")


def _write_mine(aside: Path, mine: Sequence[plan.Part], rank: int, index: Mapping[str, int]) -> dict[str, Any]:
    """Writes this rank's files; returns their contents, or the error."""
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
        return {"error": reason(error, aside)}
    return {"files": written}


def versions() -> dict[str, str]:
    return {"phalanx": __version__, "torch": torch.__version__, "python": platform.python_version()}


class ShardContents:
    """The contents of all ranks' files, merged file by file: a few numbers per tensor for any number of ranks.

    Rank 0 reads every range of every rank, ten million with a thousand ranks: hence plain lists and comparisons.
    """

    def __init__(self, tensors: int):
        self.files: dict[str, dict[str, Any]] = {}
        # Runs per tensor: first file, start, stop, elements per piece, file of the next piece.
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
