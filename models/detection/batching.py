"""Images of several sizes as one batch."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

_MULTIPLE = 32  # the coarsest stride of the backbones


def together(images: Tensor | Sequence[Tensor]) -> Tensor:
    """Images padded at the right and below by the mean colour, to the largest and to a multiple of 32.

    Shape: [B, C, H, W], or B of [C, h, w], normalised, to [B, C, H', W'].
    """
    height, width = padded_size(images)
    if isinstance(images, Tensor):
        below, right = height - images.shape[-2], width - images.shape[-1]
        return F.pad(images, (0, right, 0, below)) if below or right else images
    batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[-2], : image.shape[-1]] = image
    return batch


def padded_size(images: Tensor | Sequence[Tensor]) -> tuple[int, int]:
    """Height and width that `together` gives them."""
    height = max(image.shape[-2] for image in images)
    width = max(image.shape[-1] for image in images)
    return height + -height % _MULTIPLE, width + -width % _MULTIPLE
