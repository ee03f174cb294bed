"""A copy of a step's state in memory that is reused by every save, so that training continues while it is written.

What a forward may change is copied at once. Everything else is unchanged until the optimizer's next update, so it can be copied
during the next forward and backward; the update waits for the rest, if there is any.
"""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from phalanx.dist.checkpoint.entries import DTYPES, Entry, memory
from phalanx.dist.checkpoint.layout import Range
from phalanx.dist.checkpoint.plan import Part

_ALIGNED = 64
_Copy = tuple[Tensor, Tensor]  # to, from


class Staging:
    """This rank's share of a checkpoint, copied: from a GPU into pinned memory, on its own stream."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._later: list[_Copy] = []
        self._copied = threading.Event()
        self._copied.set()
        self._on_device: torch.cuda.Event | None = None
        self._stream: torch.cuda.Stream | None = None

    def begin(self, ranges: Sequence[tuple[Entry, Range]]) -> list[Part]:
        """Parts whose memory will hold the current state, from the return of `finish` until the next `begin`."""
        places, size = [], 0
        for entry, part in ranges:
            places.append(size)
            size += -(-part.size * entry.tensor.element_size() // _ALIGNED) * _ALIGNED
        device = next((entry.tensor.device for entry, _ in ranges if entry.tensor.is_cuda), None)
        if self._buffer.numel() < size:
            self._buffer = torch.empty(0, dtype=torch.uint8)  # frees the old one first
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device is not None)
        parts, self._later = [], []
        for (entry, part), place in zip(ranges, places, strict=True):
            held = self._buffer[place : place + part.size * entry.tensor.element_size()].view(entry.tensor.dtype)
            parts.append(Part(entry.name, DTYPES[entry.tensor.dtype], entry.shape, part, memory(held)))
            self._plan(entry, part, held)
        self._copied.clear()
        if device is not None:
            self._begin_on(device)
        return parts

    def _plan(self, entry: Entry, part: Range, held: Tensor) -> None:
        tensor = entry.tensor.detach()
        if part == entry.held:
            held = held.view(tensor.shape)
        else:
            tensor = tensor.reshape(-1)[part.start - entry.start : part.stop - entry.start]
        if entry.changes_in_forward:
            held.copy_(tensor, non_blocking=True)
        else:
            self._later.append((held, tensor))

    def _begin_on(self, device: torch.device) -> None:
        """Queues a GPU's copies, concurrent with whatever it computes next."""
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            self._copy()
            self._on_device = torch.cuda.Event()
            self._on_device.record()

    def _copy(self) -> None:
        with torch.no_grad():
            for held, tensor in self._later:
                held.copy_(tensor, non_blocking=True)
        self._later = []

    def finish(self) -> None:
        """Copies the rest, in the writing thread; returns when the copy is complete."""
        try:
            self._copy()
            if self._on_device is not None:
                self._on_device.synchronize()
        finally:
            self._copied.set()

    def wait(self) -> None:
        """To be called before weights or optimizer state change: returns when they are copied. A GPU waits on its stream."""
        if self._on_device is not None:
            torch.cuda.current_stream().wait_event(self._on_device)
        else:
            self._copied.wait()
