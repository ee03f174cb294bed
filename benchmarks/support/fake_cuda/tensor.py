"""A tensor on the pretended device."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.support.fake_cuda import dispatch
from benchmarks.support.fake_cuda.memory import record
from benchmarks.support.fake_cuda.streams import CUDA, MAIN, STREAMS, Stream, wait_for_device

BACKEND = "pretended"  # torch's name of it; what it says of itself is `cuda`


class DeviceTensor(torch.Tensor):
    """Says `cuda:0`; its numbers are in `inner`, a CPU tensor.

    Torch sees a tensor of its spare backend, so that autograd, autocast and dispatch treat it as one of an accelerator.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "DeviceTensor":
        with torch.inference_mode(False):
            inner = inner.detach()
            shape = torch.empty_strided(inner.size(), inner.stride(), dtype=inner.dtype, device="meta")
            backend = torch.device(BACKEND, 0)
            made: DeviceTensor = torch.Tensor._make_subclass(
                cls, shape, False, dispatch_device=True, device_for_backend_keys=backend
            )
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def is_pinned(self, *_: Any) -> bool:
        return False

    def pin_memory(self, *_: Any) -> Tensor:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def numpy(self, **_: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def tolist(self) -> Any:
        wait_for_device("tolist")
        return self.inner.tolist()

    def record_stream(self, stream: Stream) -> None:
        """Its memory stays until the stream has done what it was given so far."""
        record(self.inner, MAIN).kept.add(stream)
        stream.held.append(self.inner)

    def as_subclass(self, cls: type) -> "DeviceTensor":  # type: ignore[override]
        return self

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.inner})"

    def __format__(self, wanted: str) -> str:
        return format(self.item(), wanted) if self.dim() == 0 else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "DeviceTensor":
        if id(self) in memo:
            return memo[id(self)]
        copied = on_device(self.inner.clone())
        copied.requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied._is_param = True  # type: ignore[attr-defined]
        memo[id(self)] = copied
        return copied

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return dispatch.run(op, args, dict(kwargs or {}))


def on_device(inner: Tensor) -> DeviceTensor:
    """Numbers that an operation of the current stream has computed, as a tensor of the device."""
    made = DeviceTensor(inner)
    record(made.inner, STREAMS.current)
    return made
