"""Which range of which tensor a rank writes. Pure functions over names and numbers; no torch, no files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MICRO_BATCHES = "@micro_batches"  # suffix of BatchNorm's statistics, `[V, ...]`: one row per micro-batch
EMA = "@ema"  # suffix of averaged weights, buffers and statistics

# safetensors' names of dtypes, and their sizes in bytes.
ITEM_SIZE = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
ITEM_SIZE |= {"I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}


def elements(shape: Sequence[int]) -> int:
    """Number of elements of a tensor of this shape; 1 without dimensions."""
    count = 1
    for side in shape:
        count *= side
    return count


@dataclass(frozen=True)
class Range:
    """Elements `start` to `stop` (exclusive) of a flattened tensor."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def cut(sizes: Sequence[tuple[int, int]], rank: int, world: int) -> Iterator[tuple[int, Range]]:
    """Rank `rank`'s interval of the concatenated replicated tensors, balanced by bytes.

    Args:
        sizes: (elements, bytes per element) of each tensor, in the same order on all ranks.

    Yields:
        (index of the tensor, range of its elements): about as many ranges over all ranks as tensors plus ranks.
    """
    total = sum(count * item for count, item in sizes)
    first, last = rank * total // world, (rank + 1) * total // world
    offset = 0
    for index, (count, item) in enumerate(sizes):
        # An element belongs to the rank whose interval holds its first byte.
        start = min(max(-(-(first - offset) // item), 0), count)
        stop = min(max(-(-(last - offset) // item), 0), count)
        if start < stop:
            yield index, Range(start, stop)
        offset += count * item


def gaps(ranges: Sequence[Range], count: int) -> str | None:
    """The error in ranges that should cover each of `count` elements once; None if there is none."""
    expected = 0
    for part in sorted(ranges, key=lambda r: r.start):
        if part.start != expected or part.stop <= part.start:
            return f"element {min(part.start, expected)} is {'missing' if part.start > expected else 'stored twice'}"
        expected = part.stop
    return None if expected == count else f"{count} elements, but {expected} are stored"
