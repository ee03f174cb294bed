"""Which ranges of which tensors a rank contributes to a checkpoint, which rank writes them, and into how many files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from phalanx.dist.checkpoint.entries import DTYPES, Entry, memory, on_host, sizes
from phalanx.dist.checkpoint.layout import ITEM_SIZE, Range, cut, elements
from phalanx.dist.checkpoint.manifest import entry_name
from phalanx.dist.checkpoint.shard_file import Segment

# Below this average per rank neighbours share a file, so that a thousand ranks do not write a thousand tiny files.
SMALLEST_FILE = 1 << 20
# Larger files are split: many file systems, and tools that copy files, are slow with them.
LARGEST_FILE = 4 << 30


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's description in a manifest, without its location."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """A range of a tensor, and its bytes.

    Attributes:
        dtype: safetensors' name of the dtype.
        shape: shape of the full tensor.
        memory: the bytes, or a function that returns them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    range: Range
    memory: memoryview | Callable[[], memoryview]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.range.size * ITEM_SIZE[self.dtype]

    def segment(self) -> Segment:
        count = elements(self.shape)
        shape = self.shape if self.range == Range(0, count) else (self.range.size,)
        return Segment(entry_name(self.name, self.range, count), self.dtype, shape, self.memory)

    def narrowed(self, part: Range) -> "Part":
        """The part for a range within this one."""
        first, last = ((place - self.range.start) * ITEM_SIZE[self.dtype] for place in (part.start, part.stop))
        own = self.memory
        return replace(self, range=part, memory=(lambda: own()[first:last]) if callable(own) else own[first:last])


def tensor_infos(entries: Sequence[Entry]) -> list[TensorInfo]:
    return [TensorInfo(e.name, e.kind, DTYPES[e.tensor.dtype], e.shape) for e in entries]


def total_bytes(tensors: Sequence[TensorInfo]) -> int:
    """Bytes of all tensors, each counted once."""
    return sum(elements(t.shape) * ITEM_SIZE[t.dtype] for t in tensors)


def ranks_per_file(tensors: Sequence[TensorInfo], world: int, smallest: int = SMALLEST_FILE) -> int:
    """Neighbouring ranks per file; 1 unless they have very little. Each rank computes it by itself."""
    return max(1, min(world, -(-smallest * world // max(1, total_bytes(tensors)))))


def own_ranges(entries: Sequence[Entry], rank: int, world: int, together: int = 1) -> list[tuple[Entry, Range]]:
    """This rank's ranges: an interval of the replicated tensors if it writes a file, and all of its shards.

    Args:
        together: ranks per file; the first of them writes it.
    """
    replicated = [e for e in entries if e.replicated]
    files = -(-world // together)
    mine = list(cut(sizes(replicated), rank // together, files)) if rank % together == 0 else []
    runs = [(replicated[index], part) for index, part in mine]
    return runs + [(e, e.held) for e in entries if not e.replicated and e.writes and e.held.size]


def parts(ranges: Sequence[tuple[Entry, Range]]) -> list[Part]:
    """The ranges with their bytes: the tensors' own memory on CPU, else copied when they are written."""
    return [Part(e.name, DTYPES[e.tensor.dtype], e.shape, part, _memory(e, part)) for e, part in ranges]


def _memory(entry: Entry, part: Range) -> Callable[[], memoryview]:
    return lambda: memory(on_host(entry.tensor.reshape(-1)[part.start - entry.start : part.stop - entry.start]))


def files(mine: Sequence[Part], largest: int = LARGEST_FILE) -> Iterator[list[Part]]:
    """Parts in groups of at most `largest` bytes; a larger part is split."""
    group: list[Part] = []
    room = largest
    for part in mine:
        while part.size > room:
            count = room // ITEM_SIZE[part.dtype]
            middle = part.range.start + count
            if count:
                group.append(part.narrowed(Range(part.range.start, middle)))
                part = part.narrowed(Range(middle, part.range.stop))
            if group:
                yield group
            group, room = [], largest
        group.append(part)
        room -= part.size
    if group:
        yield group


def file_name(rank: int, number: int) -> str:
    """`shards/rank-00003.safetensors`, and `shards/rank-00003-001.safetensors` for further files."""
    return f"shards/rank-{rank:05d}{f'-{number:03d}' if number else ''}.safetensors"
