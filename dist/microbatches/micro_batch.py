"""Micro-batches: merging several for one forward pass, and copying them to a device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MicroBatch = dict[str, Any]

# Which samples these are: only the host asks.
_ON_HOST = ("id", "epoch", "others", "size")


def merge(parts: Sequence[MicroBatch]) -> MicroBatch:
    """Concatenates tensors along their first dimension, and lists; a single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    merged: MicroBatch = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(first, Tensor):
            merged[name] = torch.cat(values)
        elif isinstance(first, list | tuple):
            merged[name] = [item for value in values for item in value]
        else:
            raise TypeError(f"the batch's {name!r} is a {type(first).__name__}: micro-batches merge from tensors and lists")
    return merged


def to_device(batch: MicroBatch, device: torch.device, dtype: torch.dtype, channels_last: bool) -> MicroBatch:
    """The batch on a device, floating point numbers as `dtype`, images in the memory format asked for.

    The samples' ids, epochs and sizes stay on the CPU, and so do lists of tensors.
    """

    def moved(value: Tensor) -> Tensor:
        real = value.is_floating_point()
        if device.type == "cuda" and not value.is_cuda and not value.is_pinned():
            value = value.pin_memory()  # a copy from pageable memory would wait for the device
        memory = torch.channels_last if channels_last and real and value.dim() == 4 else torch.preserve_format
        return value.to(device=device, dtype=dtype if real else value.dtype, non_blocking=True, memory_format=memory)

    moves = {name for name, value in batch.items() if isinstance(value, Tensor) and name not in _ON_HOST}
    return {name: moved(value) if name in moves else value for name, value in batch.items()}


def tensors(batch: MicroBatch) -> list[Tensor]:
    """Those of a batch's entries that are tensors."""
    return [value for value in batch.values() if isinstance(value, Tensor)]
