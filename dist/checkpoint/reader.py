"""Verifying a checkpoint on disk and reading ranges of its tensors, under any sharding. No torch here.

Reads are positioned reads directly into the target memory. Mapping the files was twice as fast from the page cache
(400 MB in 0.03 s instead of 0.06 s), but then a disk error, or a file that is truncated meanwhile,
kills the process by a signal instead of raising an error.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TypeVar

from phalanx.dist.checkpoint import directory, manifest, shard_file
from phalanx.dist.checkpoint.layout import ITEM_SIZE, Range
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint, Manifest, entry_name

T = TypeVar("T")
R = TypeVar("R")


def threads(processes: int = 1) -> int:
    """Threads for reading in each of a number of processes on this machine."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // processes))


def in_threads(count: int, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Maps a function over items in order; reading and checksums release the GIL."""
    if count == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(count) as pool:
        yield from pool.map(function, items)


def problem(checkpoint: Path, rank: int = 0, world: int = 1, workers: int = 1) -> str | None:
    """The problem of a checkpoint, or None: checks its manifest, and every `world`-th block of its files.

    Args:
        workers: threads that read.
    """

    def wrong(block: tuple[str, int, str]) -> str | None:
        file, index, expected = block
        if shard_file.block_sum(checkpoint / file, index, int(stored.files[file]["block_bytes"])) == expected:
            return None
        return f"{file} was changed after it was written (block {index})"

    try:
        stored = manifest.read(checkpoint)
        if checkpoint != directory.step_directory(checkpoint.parent, stored.step):
            return f"it holds step {stored.step}: its folder was renamed"
        blocks = [(f, i, s) for f, d in stored.files.items() for i, s in enumerate(d["xxh3_64"])]
        return next((found for found in in_threads(workers, wrong, blocks[rank::world]) if found), None)
    except BrokenCheckpoint as broken:
        return str(broken)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"


def newest_valid(checkpoints: Path) -> tuple[Path | None, list[tuple[int, str]]]:
    """The newest valid checkpoint, and (step, problem) of newer ones that are not valid."""
    skipped: list[tuple[int, str]] = []
    for step in reversed(directory.steps(checkpoints)):
        path = directory.step_directory(checkpoints, step)
        found = problem(path)
        if found is None:
            return path, skipped
        skipped.append((step, found))
    return None, skipped


class Readers:
    """The shards of a checkpoint, each opened when it is first needed."""

    def __init__(self, checkpoint: Path, stored: Manifest):
        self._checkpoint, self._stored = checkpoint, stored
        self._open: dict[str, shard_file.ShardReader] = {}
        self._opening = Lock()

    def __enter__(self) -> "Readers":
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._open.values():
            reader.close()

    def fill(self, name: str, wanted: Range, target: memoryview) -> None:
        """Fills `target` with the elements `wanted` of a stored tensor, from its shards; callable from any thread."""
        tensor = self._stored.tensors[name]
        item = ITEM_SIZE[tensor.dtype]
        for part in tensor.overlapping(wanted):
            start, stop = max(part.range.start, wanted.start), min(part.range.stop, wanted.stop)
            into = target[(start - wanted.start) * item : (stop - wanted.start) * item]
            entry = entry_name(name, part.range, tensor.elements)
            self._reader(part.file).read_into(entry, (start - part.range.start) * item, into)

    def _reader(self, file: str) -> shard_file.ShardReader:
        with self._opening:
            if file not in self._open:
                self._open[file] = shard_file.ShardReader(self._checkpoint / file)
            return self._open[file]
