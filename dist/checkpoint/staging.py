"""A copy of a step's state in memory that is reused by every save, so that training continues while it is written.

What a forward may change is copied at once. Everything else is unchanged until the optimizer's next update, so it can be copied
during the next forward and backward; the update waits for the rest, if there is any.
"""

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phalanx.dist.checkpoint.entries import DTYPES, Entry, memory
from phalanx.dist.checkpoint.layout import Range
from phalanx.dist.checkpoint.pinned import pinned_bytes
from phalanx.dist.checkpoint.plan import Part

_ALIGNED = 64


class _Copy(NamedTuple):
    """A range of a tensor, and where it goes.

    Attributes:
        place: this range of the staging memory, flat, in the tensor's dtype.
        source: the tensor.
        start, stop: elements of it, in the order of its dimensions whatever its memory format.
    """

    place: Tensor
    source: Tensor
    start: int
    stop: int

    def run(self) -> Tensor:
        """Copies; returns what is read, which a GPU may still read after the return."""
        if self.stop - self.start == self.source.numel():
            self.place.view(self.source.shape).copy_(self.source, non_blocking=True)
            return self.source
        # Of a tensor in channels_last this is another tensor in memory of its own.
        flat = self.source.reshape(-1)[self.start : self.stop]
        self.place.copy_(flat, non_blocking=True)
        return flat


class Staging:
    """This rank's share of a checkpoint, copied: from a GPU into pinned memory, on its own stream."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._later: list[_Copy] = []
        self._copied = threading.Event()
        self._copied.set()
        self._on_device: torch.cuda.Event | None = None
        self._stream: torch.cuda.Stream | None = None
        self._read: list[Tensor] = []  # by the stream: its memory must not be used again before

    def begin(self, ranges: Sequence[tuple[Entry, Range]]) -> list[Part]:
        """Parts whose memory will hold the current state, from the return of `finish` until the next `begin`."""
        places, size = [], 0
        for entry, part in ranges:
            places.append(size)
            size += -(-part.size * entry.tensor.element_size() // _ALIGNED) * _ALIGNED
        device = next((entry.tensor.device for entry, _ in ranges if entry.tensor.is_cuda), None)
        if self._buffer.numel() < size:
            self._buffer = torch.empty(0, dtype=torch.uint8)  # frees the old one first
            self._buffer = torch.empty(size, dtype=torch.uint8) if device is None else pinned_bytes(size)
        parts, copies = [], []
        for (entry, part), place in zip(ranges, places, strict=True):
            held = self._buffer[place : place + part.size * entry.tensor.element_size()].view(entry.tensor.dtype)
            parts.append(Part(entry.name, DTYPES[entry.tensor.dtype], entry.shape, part, memory(held)))
            copy = _Copy(held, entry.tensor.detach(), part.start - entry.start, part.stop - entry.start)
            if entry.changes_in_forward:
                self._read.append(copy.run())
            else:
                copies.append(copy)
        # Optimizer state that is offloaded to the host lies beside weights on a GPU.
        self._later = [copy for copy in copies if not copy.source.is_cuda]
        if self._later:
            self._copied.clear()
        if device is not None:
            self._begin_on(device, [copy for copy in copies if copy.source.is_cuda])
        return parts

    def _begin_on(self, device: torch.device, copies: Iterable[_Copy]) -> None:
        """Queues a GPU's copies, concurrent with whatever it computes next."""
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream), torch.no_grad():
            self._read += [copy.run() for copy in copies]
            self._on_device = torch.cuda.Event()
            self._on_device.record()

    def finish(self) -> None:
        """Copies what lies on the host, in the writing thread; returns when everything is copied."""
        try:
            with torch.no_grad():
                for copy in self._later:
                    copy.run()
        finally:
            self._later = []
            self._copied.set()
        if self._on_device is not None:
            self._on_device.synchronize()
        self._read = []

    def wait(self) -> None:
        """To be called before weights or optimizer state change: returns when they are copied. A GPU waits on its stream."""
        self._copied.wait()
        if self._on_device is not None:
            torch.cuda.current_stream().wait_event(self._on_device)
