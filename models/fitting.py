"""Weights of another shape that have one usual way to fit: other channels of the image, another size of it or of windows."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.models.backbones.vit import VisionTransformer, interpolated

_BIAS_TABLE, _BIAS_INDEX = "relative_position_bias_table", "relative_position_index"  # as torchvision and timm name Swin's


@dataclass(frozen=True)
class WeightFit:
    """How a tensor is made to fit: the function, and its description."""

    change: Callable[[Tensor], Tensor]
    description: str


def weight_fit(model: nn.Module, name: str, given: tuple[int, ...], own: tuple[int, ...]) -> WeightFit | None:
    """How a pretrained tensor is made to fit a model; None if it fits as it is, or there is no usual way.

    Args:
        given: its shape there.
        own: its shape in the model.
    """
    if given == own:
        return None
    if name == getattr(model, "input_weight", None) and _differ_in_channels(given, own):
        channels = own[1]
        description = (
            "has its three input channels summed" if channels == 1 else f"has its three input channels repeated to {channels}"
        )
        return WeightFit(lambda weight: for_channels(weight, channels), description)
    if isinstance(model, VisionTransformer) and name == "encoder.pos_embedding" and _is_square(given) and given[2] == own[2]:
        side, grid = math.isqrt(given[1] - 1), model.grid
        return WeightFit(
            lambda embedding: interpolated(embedding, (side, side), grid),
            f"is interpolated from {side} x {side} to {grid[0]} x {grid[1]} patches",
        )
    if name.endswith(_BIAS_TABLE) and (sides := _sides_of_tables(given, own)) is not None:
        before, after = sides
        return WeightFit(
            lambda table: for_windows(table, after), f"is interpolated from {before} x {before} to {after} x {after} offsets"
        )
    if name.endswith(_BIAS_INDEX) and (index := dict(model.named_buffers()).get(name)) is not None:
        return WeightFit(lambda _: index.clone(), "is that of the windows here")  # which offset two places have: not learnt
    return None


def _sides_of_tables(given: tuple[int, ...], own: tuple[int, ...]) -> tuple[int, int] | None:
    """Offsets along a side of two tables of relative position biases; None if they are no tables of square windows."""
    if len(given) != 2 or len(own) != 2 or given[1] != own[1]:
        return None
    before, after = math.isqrt(given[0]), math.isqrt(own[0])
    return (before, after) if before**2 == given[0] and after**2 == own[0] else None


def for_windows(table: Tensor, side: int) -> Tensor:
    """Relative position biases for windows of another size, interpolated bicubically, as Swin's code does (arXiv:2103.14030).

    Shape: [(2 w - 1)^2, heads] to [side^2, heads].
    """
    before = math.isqrt(len(table))
    planes = table.T.reshape(1, -1, before, before).float()
    resized = F.interpolate(planes, (side, side), mode="bicubic", align_corners=False)
    return resized.reshape(-1, side * side).T.contiguous().to(table.dtype)


def _differ_in_channels(given: tuple[int, ...], own: tuple[int, ...]) -> bool:
    return len(given) == 4 and given[1] == 3 and (given[0], *given[2:]) == (own[0], *own[2:])


def _is_square(embedding: tuple[int, ...]) -> bool:
    return len(embedding) == 3 and embedding[0] == 1 and math.isqrt(embedding[1] - 1) ** 2 == embedding[1] - 1


def for_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution for images of other channels than three.

    One channel gets the sum over the three: the network gives for a grey image what it gave for the same image in three
    equal channels. More repeat the three, scaled so that their sum stays about the same.

    Shape: [out, 3, h, w] to [out, channels, h, w].
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    order = torch.arange(channels) % 3
    return weight[:, order] * (3 / channels)
