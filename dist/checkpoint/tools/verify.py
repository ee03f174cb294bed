"""Every checksum of a checkpoint, read by several threads: disks like that, and xxhash leaves Python's lock. No torch here."""

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
    """What is wrong with a checkpoint, as the end of a sentence, and where, if it is in one place."""

    sentence: str
    file: str | None = None
    block: int | None = None


@dataclass(frozen=True)
class Verified:
    """What was found in a checkpoint.

    Attributes:
        bytes, files, blocks: how much its manifest names; 0 where it has none.
        problems: all there are; none where it is whole.
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
    """How much `verify` will read; 0 where the manifest cannot be used."""
    try:
        return manifest.read(checkpoint).bytes
    except (BrokenCheckpoint, OSError):
        return 0


def verify(checkpoint: Path, advance: Callable[[int], None] = lambda _: None) -> Verified:
    """Reads everything a checkpoint holds and compares it with its checksums.

    Args:
        advance: called with the bytes of each block that was read.
    """
    try:
        stored = manifest.read(checkpoint)
        named = list(_blocks(stored))
    except BrokenCheckpoint as broken:
        return Verified(0, 0, 0, (ShardProblem(str(broken)),))
    except OSError as error:
        return Verified(0, 0, 0, (ShardProblem(_words(error)),))
    problems = [*_misnamed(checkpoint, stored), *_changed(checkpoint, named, advance)]
    if not problems:  # else a header that was changed would be told of twice
        problems = _headers(checkpoint, stored)
    return Verified(stored.bytes, len(stored.files), len(named), tuple(problems))


def _words(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}"


def _blocks(stored: Manifest) -> Iterator[_Block]:
    for file, facts in stored.files.items():
        sums: Any = facts.get("xxh3_64")
        size = int(facts["size"])
        if facts.get("block_bytes") != BLOCK_BYTES or not isinstance(sums, list) or len(sums) != -(-size // BLOCK_BYTES):
            raise BrokenCheckpoint(f"its manifest has no checksum for every block of {file}")
        for index, expected in enumerate(sums):
            yield _Block(file, index, min(BLOCK_BYTES, size - index * BLOCK_BYTES), str(expected))


def _misnamed(checkpoint: Path, stored: Manifest) -> list[ShardProblem]:
    name = checkpoint.resolve().name
    if not name.startswith("step-") or name == directory.step_directory(checkpoint, stored.step).name:
        return []
    return [ShardProblem(f"its manifest is of step {stored.step}, another than its folder's name")]


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
                    words = f"{block.file} was changed after it was written (block {block.index})"
                    problems.append(ShardProblem(words, block.file, block.index))
            except OSError as error:
                problems.append(ShardProblem(f"{block.file}: {error.strerror} (block {block.index})", block.file, block.index))
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(problems, key=lambda p: (p.file or "", p.block or 0))


def _headers(checkpoint: Path, stored: Manifest) -> list[ShardProblem]:
    """Where files do not hold what the manifest says: only a manifest that was made to deceive does that."""
    headers: dict[str, dict[str, Any]] = {}
    problems = []
    for file in stored.files:
        try:
            reader = ShardReader(checkpoint / file)
        except ValueError as error:
            problems.append(ShardProblem(f"{file} is no shard: {error}", file))
        except OSError as error:
            problems.append(ShardProblem(_words(error), file))
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
