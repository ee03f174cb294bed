"""Weights that `torch.save` wrote, read by torch's own reader of nothing but tensors and plain values."""

import warnings
from pathlib import Path
from typing import Any

import torch

from phalanx.models.foreign.source import BadWeights, InMemory

# Where trainers put the model beside the optimizer: Lightning, torchvision, timm, mmengine, DeepSpeed.
USUAL_KEYS = ("state_dict", "model", "model_state_dict", "module")
# Where some of them put averaged weights (EMA) beside those: timm, torchvision, YOLOv5 to v7, diffusers.
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_ZIP = b"PK\x03\x04"


def load(path: Path) -> Any:
    """The content of a file; its tensors are mapped, not read, if torch's newer format allows it."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path.name} is not a file")
    with open(path, "rb") as file:
        mapped = file.read(len(_ZIP)) == _ZIP
    with warnings.catch_warnings():
        # About formats and protocols that it refuses by an exception anyway.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def are_tensors(value: Any) -> bool:
    """Whether this is a dict of names and ordinary tensors, at least one."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(isinstance(t, torch.Tensor) and t.layout is torch.strided and not t.is_meta for t in value.values())
    )


def open_file(path: Path, prefix: str | None = None) -> InMemory:
    """A state dict, maybe with plain values beside it; or a dict that holds one under a usual key, or only one.

    Args:
        prefix: selects the state dict whose key it begins with.

    Raises:
        BadWeights: if it holds none, or several.
    """
    held = load(path)
    if are_tensors(held):
        return InMemory(held)
    nested = [key for key in held if isinstance(key, str) and are_tensors(held[key])] if isinstance(held, dict) else []
    asked = [key for key in nested if prefix is not None and f"{prefix}.".startswith(f"{key}.")]
    usual = [key for key in USUAL_KEYS if key in nested]
    keys = asked[:1] or usual or ([] if nested and _top(held) else nested)
    if len(keys) == 1:
        averages = next((key for key in _AVERAGES if key in nested and key != keys[0]), "")
        return InMemory(held[keys[0]], keys[0], averages)
    if keys:
        raise BadWeights(
            f"{path}: tensors lie under {' and '.join(keys)}. Set model.prefix={keys[0]} or another of them, or save the one "
            "that is meant in a file of its own."
        )
    top = _top(held) if isinstance(held, dict) else {}
    if are_tensors(top):
        return InMemory(top)
    what = f"the keys {', '.join(map(str, list(held)[:5]))}" if isinstance(held, dict) else f"a {type(held).__name__}"
    raise BadWeights(f"{path}: this file holds more than named tensors ({what}). Save the model's state_dict alone.")


def _top(held: dict[Any, Any]) -> dict[Any, Any]:
    """The tensors that stand in a dict itself, without the plain values beside them, such as an epoch."""
    return {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
