"""Micro-batches: merging several for one forward pass, and copying them to a device.

An entry is a tensor, a list with something for each sample, or a dictionary of entries.
"""

from collections.abc import Mapping, Sequence
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
    return {name: _merged(name, [part[name] for part in parts]) for name in parts[0]}


def _merged(name: str, values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, list | tuple):
        return [item for value in values for item in value]
    if isinstance(first, Mapping):
        return {key: _merged(f"{name}.{key}", [value[key] for value in values]) for key in first}
    raise TypeError(
        f"the batch's {name!r} is a {type(first).__name__}: micro-batches merge from tensors, lists and dictionaries"
    )


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

    def of(value: Any) -> Any:
        if isinstance(value, Tensor):
            return moved(value)
        return {key: of(item) for key, item in value.items()} if isinstance(value, Mapping) else value

    return {name: value if name in _ON_HOST else of(value) for name, value in batch.items()}


def tensors(batch: Mapping[str, Any]) -> list[Tensor]:
    """Those of a batch's entries, and of dictionaries among them, that are tensors."""
    found: list[Tensor] = []
    for value in batch.values():
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            found += tensors(value)
    return found
