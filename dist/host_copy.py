"""Tensors copied to the host while the device computes on: only reading one waits for its copy."""

from collections.abc import Sequence

import torch
from torch import Tensor

from phalanx.dist import device_progress


class HostCopies:
    """Copies of tensors in pinned memory, launched at once; tensors that are on the CPU are not copied."""

    def __init__(self, tensors: Sequence[Tensor]):
        self._copies = [launched(tensor) for tensor in tensors]
        on_gpu = [tensor for tensor in tensors if tensor.is_cuda]
        self._end = _recorded() if on_gpu else None

    def read(self) -> list[Tensor]:
        """The copies, once they have arrived."""
        if self._end is not None:
            _wait_for(self._end)
            self._end = None
        return self._copies


def launched(tensor: Tensor) -> Tensor:
    """A copy that arrives while the host goes on: read it after `wait`, or after `HostCopies.read` of a later one."""
    tensor = tensor.detach()
    if not tensor.is_cuda:
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def wait(device: torch.device) -> None:
    """Waits for everything that was launched on a device's current stream."""
    if device.type == "cuda":
        _wait_for(_recorded())


def _wait_for(event: torch.cuda.Event) -> None:
    with device_progress.awaited():
        event.synchronize()


def _recorded() -> torch.cuda.Event:
    """An event at the end of what was launched. Waiting for it the host sleeps: it would spin on a core of the loader's."""
    event = torch.cuda.Event(blocking=True)
    event.record()
    return event
