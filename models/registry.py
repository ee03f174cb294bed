"""Every network by name. An explicit table; torch is imported when a network is built."""

import difflib
from typing import TYPE_CHECKING, Any

from phalanx.models import own_network, smp_networks, timm_networks
from phalanx.models.backbones.table import BACKBONES
from phalanx.models.card import ModelCard
from phalanx.models.detection.table import DETECTION
from phalanx.models.detection.yolo.table import YOLO
from phalanx.models.options import BadOption
from phalanx.models.own_network import register
from phalanx.models.segmentation.table import SEGMENTATION
from phalanx.models.spec import ModelSpec, UnknownBackbone, UnknownModel, is_pretrained, refuse_without_smp, refuse_without_timm

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MODELS",
    "BadOption",
    "ModelSpec",
    "UnknownBackbone",
    "UnknownModel",
    "build",
    "get",
    "is_pretrained",
    "names",
    "register",
]

_CARDS: dict[str, ModelCard] = {**BACKBONES, **SEGMENTATION, **DETECTION, **YOLO}
MODELS: dict[str, ModelSpec] = {name: ModelSpec.of(name, card) for name, card in _CARDS.items()}


def names(of: str | None = None) -> list[str]:
    """Names of all networks, or of those of a kind: `backbone`, `segmentation`, `detection`. timm's are not among them."""
    return [name for name, spec in MODELS.items() if of in (None, spec.kind)]


def get(name: str) -> ModelSpec:
    """The network of a name: a key of `MODELS`, `timm/NAME`, `smp/NAME`, or a user's own, `./file.py:Class`. No imports.

    Raises:
        UnknownModel: with the nearest names.
    """
    if timm_networks.is_one(name):
        refuse_without_timm(name)
        return ModelSpec.of_timm(name)
    if smp_networks.is_one(name):
        refuse_without_smp(name)
        return ModelSpec.of_smp(name)
    if own_network.is_one(name):
        return ModelSpec.of_own(name)
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.7)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`phalanx models` lists all."
        raise UnknownModel(f"there is no network {name!r}. {hint}")
    return MODELS[name]


def build(name: str, **options: Any) -> "nn.Module":
    """`get(name).build(**options)`: from what `phalanx checkpoint consolidate` writes beside a file, `build(**model)`."""
    return get(name).build(**options)
