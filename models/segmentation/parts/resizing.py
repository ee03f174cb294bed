"""Maps brought to another size, for images of any height and width."""

import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned: pixels are areas, and the borders of both maps meet.

    Under `train.deterministic` torch takes another kernel on GPUs, whose gradient is deterministic.

    Shape: [B, C, h, w] to [B, C, *size].
    """
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def size_of(x: Tensor) -> tuple[int, int]:
    """Height and width."""
    return x.shape[-2], x.shape[-1]


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Drops rows at the bottom and columns at the right, where poolings had rounded odd sides up.

    Shape: [B, C, h, w] to [B, C, *size].
    """
    return x[..., : size[0], : size[1]]
