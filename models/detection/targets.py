"""A detector's targets: on the host, on their way to its device, and there."""

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from phalanx.models.detection.wide import wide

Target = Mapping[str, Any]


class OnHost(Sequence[Target]):
    """The targets of a batch, which stay on the host until the network sends them.

    DDP and FSDP2 copy the tensors in lists, tuples and dictionaries to the device one by one, and wait for each; a sequence of
    another kind is left alone.
    """

    def __init__(self, targets: Sequence[Target]):
        self._targets = list(targets)

    @overload
    def __getitem__(self, place: int) -> Target: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Target]: ...

    def __getitem__(self, place: int | slice) -> Target | Sequence[Target]:
        return self._targets[place]

    def __len__(self) -> int:
        return len(self._targets)


def sent(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device that is not waited for: from pageable memory a copy would be."""
    if device.type == "cuda" and not value.is_cuda and not value.is_pinned():
        value = value.pin_memory()
    return value.to(device, non_blocking=True)


def on_device(targets: Sequence[Target], like: Tensor) -> list[dict[str, Any]]:
    """Targets on the device of a batch, their boxes in its format, but never in half precision; all else as it is."""
    boxes_like = wide(like[:0])
    moved = []
    for target in targets:
        own = {name: sent(value, like.device) if isinstance(value, Tensor) else value for name, value in target.items()}
        moved.append(own | {"boxes": own["boxes"].reshape(-1, 4).to(boxes_like.dtype)})
    return moved
