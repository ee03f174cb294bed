"""Verifies every checksum of a checkpoint in several threads: xxhash releases the GIL. No torch here."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx.dist.checkpoint import directory, manifest, shard_file
from phalanx.dist.checkpoint.layout import elements
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint, Manifest, entry_name
from phalanx.dist.checkpoint.shard_file import BLOCK_BYTES, ShardReader

_THREADS = min(8, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class ShardProblem:
    """A problem of a checkpoint, as the end of a sentence, and its location if there is one."""

    sentence: str
    file: str | None = None
    block: int | None = None


@dataclass(frozen=True)
class Verified:
    """The result of a verification.

    Attributes:
        bytes, files, blocks: totals of its manifest; 0 without one.
        problems: all of them; none if it is intact.
    """

    bytes: int
    files: int
    blocks: int
    problems: tuple[ShardProblem, ...]


@dataclass(frozen=True)
class _Block:
    file: str
    index: int
    size: int
    expected: str


def bytes_of(checkpoint: Path) -> int:
    """Bytes that `verify` will read; 0 if the manifest cannot be used."""
    try:
        return manifest.read(checkpoint).bytes
    except (BrokenCheckpoint, OSError):
        return 0


def verify(checkpoint: Path, advance: Callable[[int], None] = lambda _: None) -> Verified:
    """Reads a checkpoint's files and compares them with their checksums.

    Args:
        advance: called with the bytes of each block that was read.
    """
    try:
        stored = manifest.read(checkpoint)
        named = list(_blocks(stored))
    except BrokenCheckpoint as broken:
        return Verified(0, 0, 0, (ShardProblem(str(broken)),))
    except OSError as error:
        return Verified(0, 0, 0, (ShardProblem(_reason(error)),))
    problems = [*_misnamed(checkpoint, stored), *_changed(checkpoint, named, advance)]
    if not problems:  # else a changed header would be reported twice
        problems = _headers(checkpoint, stored)
    return Verified(stored.bytes, len(stored.files), len(named), tuple(problems))


def _reason(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}"


def _blocks(stored: Manifest) -> Iterator[_Block]:
    for file, recorded in stored.files.items():
        sums: Any = recorded.get("xxh3_64")
        size = int(recorded["size"])
        if recorded.get("block_bytes") != BLOCK_BYTES or not isinstance(sums, list) or len(sums) != -(-size // BLOCK_BYTES):
            raise BrokenCheckpoint(f"its manifest has no checksum for every block of {file}")
        for index, expected in enumerate(sums):
            yield _Block(file, index, min(BLOCK_BYTES, size - index * BLOCK_BYTES), str(expected))


def _misnamed(checkpoint: Path, stored: Manifest) -> list[ShardProblem]:
    name = checkpoint.resolve().name
    if not name.startswith("step-") or name == directory.step_directory(checkpoint, stored.step).name:
        return []
    return [ShardProblem(f"its manifest is of step {stored.step}, unlike its folder's name")]


def _changed(checkpoint: Path, blocks: list[_Block], advance: Callable[[int], None]) -> list[ShardProblem]:
    problems = []
    pool = ThreadPoolExecutor(_THREADS, "verify")
    try:
        sums = {pool.submit(shard_file.block_sum, checkpoint / b.file, b.index): b for b in blocks}
        for done in as_completed(sums):
            block = sums[done]
            advance(block.size)
            try:
                if done.result() != block.expected:
                    problem = f"{block.file} was changed after it was written (block {block.index})"
                    problems.append(ShardProblem(problem, block.file, block.index))
            except OSError as error:
                problems.append(ShardProblem(f"{block.file}: {error.strerror} (block {block.index})", block.file, block.index))
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(problems, key=lambda p: (p.file or "", p.block or 0))


def _headers(checkpoint: Path, stored: Manifest) -> list[ShardProblem]:
    """Files whose headers contradict the manifest, which only a forged manifest does."""
    headers: dict[str, dict[str, Any]] = {}
    problems = []
    for file in stored.files:
        try:
            reader = ShardReader(checkpoint / file)
        except ValueError as error:
            problems.append(ShardProblem(f"{file} is not a shard: {error}", file))
        except OSError as error:
            problems.append(ShardProblem(_reason(error), file))
        else:
            headers[file] = reader.entries
            reader.close()
    for name, tensor in stored.tensors.items():
        for part in (part for part in tensor.ranges if part.file in headers):
            entry = entry_name(name, part.range, tensor.elements)
            there = headers[part.file].get(entry)
            if there is None or there["dtype"] != tensor.dtype or elements(there["shape"]) != part.range.size:
                problems.append(ShardProblem(f"{part.file} does not hold {entry} as the manifest says", part.file))
    return problems
