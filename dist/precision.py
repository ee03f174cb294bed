"""Number formats: what weights and arithmetic are in, what the hardware can do, and autocast around a model's forward.

Weights, BatchNorm statistics and losses are float32 under every format but fp64. bf16 and fp16 run by autocast (Micikevicius et
al., Mixed Precision Training, ICLR 2018, arXiv:1710.03740), entered in the model's own forward, so that it is the same under
every strategy and in evaluation; what the forward returns becomes float32.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def weights_dtype(precision: str) -> torch.dtype:
    """The format of weights, gradients and optimizer state."""
    return torch.float64 if precision == "fp64" else torch.float32


def check(precision: str, device: torch.device) -> None:
    """Whether the hardware has a format; on GPUs also sets whether float32 products may round to TF32.

    Raises:
        UserError: with what the hardware has.
    """
    has, name = _formats(device)
    if precision not in has:
        listed = ", ".join(has)
        raise UserError(f"dist.precision={precision}: {name} has {listed}. Set one of them (another experiment).", shared=True)
    if device.type == "cuda":
        # cuDNN rounds to TF32 by default; fp32 means float32. The older switches set the newer ones too, not the other way
        # round, and torch's compiler refuses to read the older ones where they differ.
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _formats(device: torch.device) -> tuple[list[str], str]:
    """The formats of a device, and its name."""
    if device.type != "cuda":
        return ["fp32", "bf16", "fp16", "fp64"], "the CPU"
    major, minor = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
    return ["fp32", *(["tf32", "bf16"] if major >= 8 else []), "fp16", "fp64"], name


def has_tensor_cores(device: torch.device) -> str | None:
    """The name of a GPU whose tensor cores compute in tf32 and bf16; None for another device."""
    formats, name = _formats(device)
    return name if "tf32" in formats else None


def to_float32(value: Any) -> Any:
    """A model's output with its half precision tensors as float32: a tensor, or tensors in any nesting."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in HALF.values() else value
    if isinstance(value, Mapping):
        same: Callable[[dict[Any, Any]], Any] = dict if type(value) is dict else type(value)
        return same({k: to_float32(v) for k, v in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(to_float32, value))
    if isinstance(value, list | tuple):
        return type(value)(map(to_float32, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: to_float32(getattr(value, f.name)) for f in fields(value) if f.init})
    return value


def apply(model: nn.Module, precision: str, device: torch.device) -> None:
    """Runs a model's forward under autocast from now on, where the format asks for it."""
    if precision not in HALF:
        return
    model.forward = _AutocastForward(model, device.type, HALF[precision])


class _AutocastForward:
    """A model's forward under autocast. An object, and no closure, so that a copy of the model runs the copy's forward."""

    def __init__(self, model: nn.Module, device_type: str, dtype: torch.dtype):
        self._model, self._device_type, self._dtype = model, device_type, dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self._device_type, self._dtype):
            result = type(self._model).forward(self._model, *args, **kwargs)
        return to_float32(result)
