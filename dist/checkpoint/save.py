"""Saving: every rank writes its own ranges, rank 0 commits. All ranks call together; all learn how it went."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phalanx import __version__
from phalanx.dist.checkpoint import directory, shard_file
from phalanx.dist.checkpoint.entries import DTYPES, Entry, memory, on_host, sizes
from phalanx.dist.checkpoint.layout import Range, cut, elements
from phalanx.dist.checkpoint.manifest import Manifest, StoredRange, StoredTensor, entry_name
from phalanx.dist.collectives import gather_json
from phalanx.dist.process_group import World


class SaveFailed(RuntimeError):
    """A checkpoint could not be written; older ones are as they were."""


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says besides its tensors."""

    step: int
    samples: int
    strategy: str
    experiment: str
    state: dict[str, Any]


def parts(entries: Sequence[Entry], rank: int, world: int) -> list[tuple[Entry, Range]]:
    """What this rank writes: its run of the replicated tensors, and all of what only it holds."""
    replicated = [e for e in entries if e.replicated]
    mine = [(replicated[index], part) for index, part in cut(sizes(replicated), rank, world)]
    return mine + [(e, e.held) for e in entries if not e.replicated and e.writes and e.held.size]


def _segments(mine: Sequence[tuple[Entry, Range]]) -> list[shard_file.Segment]:
    segments = []
    for entry, part in mine:
        count = elements(entry.shape)
        is_whole = part == Range(0, count)
        held = on_host(entry.tensor.detach().reshape(-1)[part.start - entry.start : part.stop - entry.start])
        name = entry_name(entry.name, part, count)
        shape = entry.shape if is_whole else (part.size,)
        segments.append(shard_file.Segment(name, DTYPES[entry.tensor.dtype], shape, memory(held)))
    return segments


def versions() -> dict[str, str]:
    return {"phalanx": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _write_mine(aside: Path, mine: Sequence[tuple[Entry, Range]], rank: int) -> dict[str, Any]:
    """Writes this rank's shard; says what is in it, or what went wrong."""
    file = f"shards/rank-{rank:05d}.safetensors"
    try:
        if not aside.is_dir():
            raise OSError(f"rank {rank} does not see {aside}; all ranks need the same file system")
        written = shard_file.write(aside / file, _segments(mine))
    except OSError as error:
        return {"error": f"{aside / file}: {error.strerror or error}"}
    return {"file": file, "sum": written.to_json(), "ranges": [[e.name, part.start, part.stop] for e, part in mine]}


def save(world: World, checkpoints: Path, entries: Sequence[Entry], progress: Progress) -> Path:
    """Writes and commits a checkpoint.

    Args:
        entries: this rank's view of everything, in an order that all ranks share for what is replicated.

    Raises:
        SaveFailed: on every rank, where any rank could not write.
    """
    aside, error = "", None
    if world.ranks.is_main:
        try:
            aside = str(directory.prepare(checkpoints, progress.step))
        except OSError as problem:
            error = f"{checkpoints}: {problem.strerror or problem}"
    first = gather_json(world, {"aside": aside, "error": error})[0]
    if first["error"]:
        raise SaveFailed(first["error"])
    folder = Path(first["aside"])
    reports = gather_json(world, _write_mine(folder, parts(entries, world.ranks.rank, world.ranks.world), world.ranks.rank))
    errors = [r["error"] for r in reports if "error" in r]
    if not errors and world.ranks.is_main:
        try:
            directory.commit(folder, progress.step, _manifest(world, entries, progress, reports))
        except OSError as problem:
            errors.append(f"{folder}: {problem.strerror or problem}")
    errors = gather_json(world, errors)[0]
    if errors:
        raise SaveFailed(errors[0])
    return directory.step_directory(checkpoints, progress.step)


def _in_order(ranges: list[StoredRange]) -> tuple[StoredRange, ...]:
    return tuple(sorted(ranges, key=lambda r: r.range.start))


def _manifest(world: World, entries: Sequence[Entry], progress: Progress, reports: Sequence[dict[str, Any]]) -> Manifest:
    ranges: dict[str, list[StoredRange]] = {e.name: [] for e in entries}
    for report in reports:
        for name, start, stop in report["ranges"]:
            ranges[name].append(StoredRange(report["file"], Range(start, stop)))
    return Manifest(
        step=progress.step,
        samples=progress.samples,
        world_size=world.ranks.world,
        strategy=progress.strategy,
        experiment=progress.experiment,
        versions=versions(),
        state=progress.state,
        files={r["file"]: r["sum"] for r in reports},
        tensors={e.name: StoredTensor(e.kind, DTYPES[e.tensor.dtype], e.shape, _in_order(ranges[e.name])) for e in entries},
    )
