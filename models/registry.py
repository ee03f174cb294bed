"""Every network by name. An explicit table; torch is imported when one is built."""

import difflib
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

MODELS: dict[str, str] = {
    "resnet18": "phalanx.models.backbones.resnet:resnet18",
}


class UnknownModel(ValueError):
    """There is no network of that name; the message lists the nearest."""


def check(name: str) -> None:
    """Whether there is such a network.

    Raises:
        UnknownModel: with the nearest names.
    """
    if name in MODELS:
        return
    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
    listed = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(sorted(MODELS))}."
    raise UnknownModel(f"there is no network {name!r}. {listed}")


def build(name: str, **options: Any) -> "nn.Module":
    """A network with freshly initialised weights, drawn from torch's global generator.

    Args:
        name: a key of `MODELS`.
        options: the network's own: `num_classes`, `in_channels`, ...

    Raises:
        UnknownModel: with the nearest names.
    """
    check(name)
    module, _, function = MODELS[name].partition(":")
    network: nn.Module = getattr(importlib.import_module(module), function)(**options)
    return network
