"""One file of a checkpoint: real safetensors, written in one pass with its checksums, read by ranges. No torch here.

The format (https://github.com/huggingface/safetensors): eight bytes of header length, a JSON header, the tensors' bytes.
The library's own writer takes all tensors in one dictionary and copies them; this one writes memory without a copy.
"""

import json
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from phalanx.dist.checkpoint.layout import ITEM_SIZE, elements
from phalanx.dist.storage.durable_files import start_writeback

BLOCK_BYTES = 16 << 20
_LARGEST_HEADER = 100 << 20  # the library's own limit
_PIECE_BYTES = 1 << 20
# Writeback starts after this many bytes, instead of at the final fsync: with few at first, so as to begin at once, then with
# as many as are written already, so that a large file has large extents.
_FIRST_WRITEBACK_BYTES, _WRITEBACK_BYTES = 1 << 20, 8 << 20


@dataclass(frozen=True)
class Segment:
    """A tensor to be written.

    Attributes:
        name: its entry's.
        dtype: safetensors' name of the dtype.
        memory: its contiguous bytes, or a function that returns them when they are written, so that few are held at a time.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    memory: memoryview | Callable[[], memoryview]

    @property
    def size(self) -> int:
        """Bytes."""
        return elements(self.shape) * ITEM_SIZE[self.dtype]


@dataclass(frozen=True)
class FileSum:
    """Size in bytes of a file and the xxh3-64 checksum of each of its blocks."""

    size: int
    blocks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "block_bytes": BLOCK_BYTES, "xxh3_64": list(self.blocks)}


class _Summing:
    """Writes to a file and computes checksums, block by block."""

    def __init__(self, file: BinaryIO):
        self._file, self._hash, self._room, self.size = file, xxhash.xxh3_64(), BLOCK_BYTES, 0
        self._handed_over = 0  # bytes whose writeback was started
        self.blocks: list[str] = []

    def write(self, memory: memoryview) -> None:
        self._file.write(memory)
        self.size += len(memory)
        if self.size - self._handed_over >= min(max(_FIRST_WRITEBACK_BYTES, self._handed_over), _WRITEBACK_BYTES):
            self._file.flush()
            start_writeback(self._file.fileno(), self._handed_over, self.size - self._handed_over)
            self._handed_over = self.size
        while len(memory) >= self._room:
            self._hash.update(memory[: self._room])
            memory = memory[self._room :]
            self._end_block()
        self._hash.update(memory)
        self._room -= len(memory)

    def _end_block(self) -> None:
        self.blocks.append(self._hash.hexdigest())
        self._hash, self._room = xxhash.xxh3_64(), BLOCK_BYTES

    def finish(self) -> FileSum:
        if self._room < BLOCK_BYTES:
            self._end_block()
        return FileSum(self.size, tuple(self.blocks))


def _header(segments: Sequence[Segment], metadata: dict[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for segment in segments:
        end = offset + segment.size
        entries[segment.name] = {"dtype": segment.dtype, "shape": list(segment.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)  # the data start at a multiple of eight


def write(path: Path, segments: Iterable[Segment], metadata: dict[str, str] | None = None) -> FileSum:
    """Writes a safetensors file and fsyncs it.

    Wide elements come first, so that every tensor is aligned to its element size.
    """
    ordered = sorted(segments, key=lambda s: -ITEM_SIZE[s.dtype])
    header = _header(ordered, metadata or {})
    with open(path, "wb", buffering=1 << 20) as file:
        summing = _Summing(file)
        summing.write(memoryview(struct.pack("<Q", len(header)) + header))
        for segment in ordered:
            summing.write(segment.memory() if callable(segment.memory) else segment.memory)
        file.flush()
        os.fsync(file.fileno())
    return summing.finish()


def block_sum(path: Path, block: int, block_bytes: int | None = None) -> str:
    """The checksum of one block of a file on disk."""
    left = block_bytes or BLOCK_BYTES
    digest, place = xxhash.xxh3_64(), block * left
    # Pieces that stay in the processor's cache between reading and summing.
    piece = memoryview(bytearray(_PIECE_BYTES))
    with open(path, "rb", buffering=0) as file:
        while left and (count := os.preadv(file.fileno(), [piece[:left]], place)):
            digest.update(piece[:count])
            place, left = place + count, left - count
    return digest.hexdigest()


class ShardReader:
    """Reads the entries of one safetensors file.

    Raises:
        ValueError: if the file is not a valid safetensors file, with the reason.
    """

    def __init__(self, path: Path):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed by close)
        try:
            self._data, self.entries = self._read_header()
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> tuple[int, dict[str, Any]]:
        """The offset of the data, and the entries."""
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._file.read(8), "little")
        if length > min(size - 8, _LARGEST_HEADER):
            raise ValueError("its header is cut short")
        try:
            header = json.loads(self._file.read(length))
            entries = {k: v for k, v in header.items() if k != "__metadata__"}
            for entry in entries.values():
                begin, end = entry["data_offsets"]
                if not all(type(number) is int and number >= 0 for number in (begin, end, *entry["shape"])):
                    raise ValueError
                expected = elements(entry["shape"]) * ITEM_SIZE[entry["dtype"]]
                if not begin <= end <= size - 8 - length or end - begin != expected:
                    raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError("its header is broken") from None
        return 8 + length, entries

    def read_into(self, name: str, skip: int, memory: memoryview) -> None:
        """Fills `memory` with the bytes of an entry from byte `skip` on."""
        position = self._data + self.entries[name]["data_offsets"][0] + skip
        while len(memory):
            count = os.preadv(self._file.fileno(), [memory[: 1 << 30]], position)
            if count == 0:
                raise ValueError("it is cut short")
            memory, position = memory[count:], position + count

    def close(self) -> None:
        self._file.close()
