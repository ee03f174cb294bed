"""Weights of another shape that have one usual way to fit: other channels of the image, another size of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phalanx.models.backbones.vit import VisionTransformer, interpolated


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
    return None


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
