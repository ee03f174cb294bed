"""Transforms that work on Pillow's images, used on tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F


class ByPillow:
    """Applies a transform of an image of Pillow to a tensor.

    Shape: [C, H, W] with 1 or 3 channels to the same. Pillow's images have 8 bits: floating point pixels are rounded to them.
    """

    def __init__(self, transform: Callable[[Any], Any]):
        self._transform = transform

    def __call__(self, image: Tensor) -> Tensor:
        integral = image.dtype == torch.uint8
        pixels = image if integral else image.mul(255).round().clamp(0, 255).to(torch.uint8)
        changed: Tensor = F.pil_to_tensor(self._transform(F.to_pil_image(pixels.cpu()))).to(image.device)
        return changed if integral else changed.to(image.dtype) / 255
