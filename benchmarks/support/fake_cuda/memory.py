"""What each stream did with each piece of device memory, and which host memory is pinned.

A stream's operations are numbered. Of every storage its record says which stream wrote it last, and up to where each stream has
read it; a stream or the host knows of another up to what it has waited for. An operation that touches what another stream has
done, and does not know of it, is a fault: a race on a real device. So is memory that is given back while a stream other than
the one it was taken for may still use it (`torch.Tensor.record_stream`).
"""

import sys
import threading
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from benchmarks.support.fake_cuda.ledger import LEDGER

if TYPE_CHECKING:
    from benchmarks.support.fake_cuda.streams import Copy, Stream

LOCK = threading.RLock()
_registered: dict[int, int] = {}  # address and size of what `cudaHostRegister` pinned


class Clock:
    """Up to which of its operations each stream has been waited for."""

    def __init__(self) -> None:
        self.known: dict[Stream, int] = {}

    def learn(self, known: "dict[Stream, int]") -> None:
        for stream, number in known.items():
            if self.known.get(stream, 0) < number:
                self.known[stream] = number

    def knows(self, stream: "Stream", number: int) -> bool:
        return self.known.get(stream, 0) >= number


HOST = Clock()


class Record:
    """The history of one storage; it ends with it.

    Args:
        home: the stream it was taken for: its memory is free for that stream's next operation.
    """

    __slots__ = ("copies", "home", "kept", "read", "shape", "written")

    def __init__(self, home: "Stream", shape: tuple[int, ...]):
        self.home, self.shape = home, shape
        self.written: tuple[Stream, int] | None = None
        self.read: dict[Stream, int] = {}
        self.kept: set[Stream] = set()
        self.copies: list[Copy] = []

    def touch(self, stream: "Stream", writes: bool) -> None:
        """An operation of a stream reads it, or writes it."""
        if self.written is not None and not _ordered(stream, *self.written):
            LEDGER.fault(f"a stream uses [{_sides(self.shape)}] without having waited for the stream that wrote it")
        if not writes:
            self.read[stream] = stream.number
            return
        if not all(_ordered(stream, reader, number) for reader, number in self.read.items()):
            LEDGER.fault(f"a stream writes [{_sides(self.shape)}] without having waited for the stream that reads it")
        self.written = stream, stream.number
        self.read.clear()

    def __del__(self) -> None:
        if sys.is_finalizing():
            return
        for copy in self.copies:
            copy.lose()
        used = self.read if self.written is None else {**self.read, self.written[0]: self.written[1]}
        if not all(stream in self.kept or _ordered(self.home, stream, number) for stream, number in used.items()):
            LEDGER.fault(f"memory of [{_sides(self.shape)}] is given back while another stream may still use it")


def _ordered(stream: "Stream", other: "Stream", number: int) -> bool:
    """Whether what a stream does now comes after an operation of another."""
    return stream is other or stream.clock.knows(other, number) or HOST.knows(other, number)


def _sides(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def record(inner: Tensor, home: "Stream") -> Record:
    """The record of a tensor's storage; a new one where there was none."""
    storage = inner.untyped_storage()
    known: Record | None = getattr(storage, "_history", None)
    if known is None:
        known = storage._history = Record(home, tuple(inner.shape))  # type: ignore[attr-defined]
    return known


class Lent:
    """A tensor whose memory is not kept: it is there only as long as somebody else has it."""

    def __init__(self, tensor: Tensor):
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._dtype, self._shape = tensor.dtype, tensor.shape
        self._stride, self._offset = tensor.stride(), tensor.storage_offset()

    def tensor(self) -> Tensor | None:
        if self._storage.expired():
            return None
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        return torch.empty(0, dtype=self._dtype).set_(storage, self._offset, self._shape, self._stride)


# -- host memory


def pin(tensor: Tensor) -> Tensor:
    """The tensor itself, whose memory counts as pinned from now on."""
    tensor.untyped_storage()._pinned = True  # type: ignore[attr-defined]
    return tensor


def is_pinned(tensor: Tensor) -> bool:
    storage = tensor.untyped_storage()
    return tensor.numel() > 0 and (getattr(storage, "_pinned", False) or storage.data_ptr() in _registered)


class Runtime:
    """Of `torch.cuda.cudart()`, what pins host memory; 0 is success."""

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        _registered[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        return 0 if _registered.pop(address, None) is not None else 1

    def cudaMemGetInfo(self, device: int) -> tuple[int, int]:
        return 2**36, 2**37


def spoil(tensor: Tensor) -> None:
    """Fills host memory with what nobody would take for a result."""
    if tensor.is_floating_point():
        tensor.fill_(float("nan"))
    else:
        tensor.fill_(True if tensor.dtype == torch.bool else 77)
