"""What a run says of itself before its first step: the device, the network, the data."""

import math
import os
from collections.abc import Iterator

import torch

from phalanx.configs.schema import RunConfig
from phalanx.train.setup.build import Parts

_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))
_MOST_NAMES = 5


def introduced(config: RunConfig, parts: Parts) -> Iterator[str]:
    """The lines; nothing is read, and no device is waited for."""
    exact = ", exact sums" if config.dist.reduce == "exact" else ""
    yield f"{_device(parts.engine.world.device)}; {config.dist.strategy}{exact}, {config.dist.precision}"
    sizes = _sizes(parts)
    total = sum(sizes.values())
    trained = sum(sizes[name] for name, parameter in parts.engine.unwrapped.named_parameters() if parameter.requires_grad)
    frozen = f", {_short(trained)} of them trained" if trained < total else ""
    backbone = f" on {config.model.backbone}" if config.model.backbone else ""
    yield f"{config.model.name}{backbone}: {_short(total)} parameters{frozen}"
    yield f"{len(parts.training):,} samples to train on, {len(parts.validation):,} to validate on{_classes(parts)}"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    none = "" if torch.cuda.is_available() else ", since torch finds no GPU"
    return f"on the CPU{none}: {threads} thread{'s' if threads > 1 else ''} a rank, {os.cpu_count()} cores"


def _sizes(parts: Parts) -> dict[str, int]:
    """Elements of each full parameter, by name: a rank may hold a part of it."""
    names = {name for name, _ in parts.engine.unwrapped.named_parameters()}
    return {e.name: math.prod(e.shape) for e in parts.engine.entries() if e.kind == "model" and e.name in names}


def _classes(parts: Parts) -> str:
    names = parts.data_info.classes
    if not names:
        return ""
    listed = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    return f"; {len(names)} classes: {listed}"


def _short(number: int) -> str:
    """11,181,642 as `11.2 M`."""
    for unit, letter in _UNITS:
        if number >= unit:
            return f"{number / unit:.3g} {letter}"
    return str(number)
