"""A copy of a step's state in memory that is kept from save to save, so that training goes on while it is written."""

from collections.abc import Sequence

import torch

from phalanx.dist.checkpoint.entries import DTYPES, Entry, memory
from phalanx.dist.checkpoint.layout import Range
from phalanx.dist.checkpoint.plan import Part

_ALIGNED = 64


class Staging:
    """This rank's share of a checkpoint, copied.

    Copies from a GPU go into pinned memory on the stream that computes, so nothing waits for them but `wait`.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._copied: torch.cuda.Event | None = None

    def copy(self, ranges: Sequence[tuple[Entry, Range]]) -> list[Part]:
        """Parts whose memory stays as it is now, until the next copy."""
        places, size = [], 0
        for entry, part in ranges:
            places.append(size)
            size += -(-part.size * entry.tensor.element_size() // _ALIGNED) * _ALIGNED
        on_gpu = any(entry.tensor.is_cuda for entry, _ in ranges)
        if self._buffer.numel() < size:
            self._buffer = torch.empty(0, dtype=torch.uint8)  # the old one goes first
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=on_gpu)
        found = [self._copy(entry, part, place) for (entry, part), place in zip(ranges, places, strict=True)]
        if on_gpu:
            self._copied = torch.cuda.Event()
            self._copied.record()
        return found

    def _copy(self, entry: Entry, part: Range, place: int) -> Part:
        tensor = entry.tensor.detach()
        held = self._buffer[place : place + part.size * tensor.element_size()].view(tensor.dtype)
        if part == entry.held:
            held.view(tensor.shape).copy_(tensor, non_blocking=True)
        else:
            held.copy_(tensor.reshape(-1)[part.start - entry.start : part.stop - entry.start], non_blocking=True)
        return Part(entry.name, DTYPES[tensor.dtype], entry.shape, part, memory(held))

    def wait(self) -> None:
        """Returns when everything is in the copy."""
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None
