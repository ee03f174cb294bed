"""Weights that `torch.save` wrote, read by torch's own reader of nothing but tensors and plain values."""

import warnings
from pathlib import Path
from typing import Any

import torch

from phalanx.models.foreign.source import BadWeights, InMemory

# Where trainers put the model beside the optimizer: Lightning, torchvision, timm, mmengine, DeepSpeed.
USUAL_KEYS = ("state_dict", "model", "model_state_dict", "module")
_ZIP = b"PK\x03\x04"


def load(path: Path) -> Any:
    """What a file holds; its tensors are mapped, not read, where torch's newer format allows it."""
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


def open_file(path: Path) -> InMemory:
    """A state dict, or a dict that holds exactly one under a usual key.

    Raises:
        BadWeights: where it holds none, or several.
    """
    held = load(path)
    if are_tensors(held):
        return InMemory(held)
    keys = [key for key in USUAL_KEYS if isinstance(held, dict) and are_tensors(held.get(key))]
    if len(keys) == 1:
        return InMemory(held[keys[0]], keys[0])
    if keys:
        raise BadWeights(f"{path}: tensors lie under {' and '.join(keys)}. Save the one that is meant in a file of its own.")
    what = f"the keys {', '.join(map(str, list(held)[:5]))}" if isinstance(held, dict) else f"a {type(held).__name__}"
    raise BadWeights(f"{path}: this file holds more than named tensors ({what}). Save the model's state_dict alone.")
