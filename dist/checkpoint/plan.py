"""Which ranges of which tensors a rank gives to a checkpoint, who writes them, and into how many files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from phalanx.dist.checkpoint.entries import DTYPES, Entry, memory, on_host, sizes
from phalanx.dist.checkpoint.layout import ITEM_SIZE, Range, cut, elements
from phalanx.dist.checkpoint.manifest import entry_name
from phalanx.dist.checkpoint.shard_file import Segment

# Where ranks have less than this on average, neighbours share a file: a thousand ranks make no thousand tiny files.
SMALLEST_FILE = 1 << 20
# More than this is split: many file systems, and tools that copy files, are slow with larger ones.
LARGEST_FILE = 4 << 30


@dataclass(frozen=True)
class TensorInfo:
    """What a manifest says of a tensor, besides where it is."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """A range of a tensor, and its bytes.

    Attributes:
        dtype: safetensors' name of the number format.
        shape: of the whole tensor.
        memory: the bytes, or what gives them.
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
        """The same for a range within this one."""
        first, last = ((place - self.range.start) * ITEM_SIZE[self.dtype] for place in (part.start, part.stop))
        own = self.memory
        return replace(self, range=part, memory=(lambda: own()[first:last]) if callable(own) else own[first:last])


def tensor_infos(entries: Sequence[Entry]) -> list[TensorInfo]:
    return [TensorInfo(e.name, e.kind, DTYPES[e.tensor.dtype], e.shape) for e in entries]


def whole_bytes(tensors: Sequence[TensorInfo]) -> int:
    """Bytes of all tensors, each counted once."""
    return sum(elements(t.shape) * ITEM_SIZE[t.dtype] for t in tensors)


def ranks_a_file(tensors: Sequence[TensorInfo], world: int, smallest: int = SMALLEST_FILE) -> int:
    """How many neighbouring ranks share a file; 1 unless they have very little. Known to each rank without asking."""
    return max(1, min(world, -(-smallest * world // max(1, whole_bytes(tensors)))))


def own_ranges(entries: Sequence[Entry], rank: int, world: int, together: int = 1) -> list[tuple[Entry, Range]]:
    """What this rank gives: a run of the replicated tensors where it writes a file, and all of what only it holds.

    Args:
        together: ranks that share a file; the first of them writes it.
    """
    replicated = [e for e in entries if e.replicated]
    files = -(-world // together)
    mine = list(cut(sizes(replicated), rank // together, files)) if rank % together == 0 else []
    runs = [(replicated[index], part) for index, part in mine]
    return runs + [(e, e.held) for e in entries if not e.replicated and e.writes and e.held.size]


def parts(ranges: Sequence[tuple[Entry, Range]]) -> list[Part]:
    """The ranges with their bytes: the tensors' own memory where that is the CPU's, else copied when they are written."""
    return [Part(e.name, DTYPES[e.tensor.dtype], e.shape, part, _memory(e, part)) for e, part in ranges]


def _memory(entry: Entry, part: Range) -> Callable[[], memoryview]:
    return lambda: memory(on_host(entry.tensor.reshape(-1)[part.start - entry.start : part.stop - entry.start]))


def files(mine: Sequence[Part], largest: int = LARGEST_FILE) -> Iterator[list[Part]]:
    """Parts in groups of at most `largest` bytes, a part that is larger cut into several."""
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
    """`shards/rank-00003.safetensors`, and `shards/rank-00003-001.safetensors` for what did not go into it."""
    return f"shards/rank-{rank:05d}{f'-{number:03d}' if number else ''}.safetensors"
