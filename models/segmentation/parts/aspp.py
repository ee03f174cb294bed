"""Atrous spatial pyramid pooling with image features: Chen et al., arXiv:1706.05587, section 3.3."""

import torch
from torch import Tensor, nn

from phalanx.models.segmentation.parts.layers import convolution
from phalanx.models.segmentation.parts.resizing import size_of

CHANNELS = 256
_UNIT = 6  # at a stride of 16; the rates are 1, 2 and 3 times as large


def rates_at(stride: int) -> tuple[int, int, int]:
    """6, 12, 18 at a stride of 16, twice that at 8 (section 3.3): the same distance in the image."""
    unit = max(1, _UNIT * 16 // stride)
    return unit, 2 * unit, 3 * unit


class ImagePooling(nn.Sequential):
    """The mean over the image, through 1x1, BatchNorm and ReLU, at every position.

    It gives BatchNorm one value a sample: a micro-batch needs two, or joint statistics.

    Shape: [B, channels, H, W] to [B, outputs, H, W].
    """

    def __init__(self, channels: int, outputs: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), *convolution(channels, outputs, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = super().forward(x)
        return pooled.expand(-1, -1, *size_of(x))


class AtrousPyramid(nn.Module):
    """1x1, three dilated 3x3, and the mean over the image, side by side; then a convolution over all of them.

    Names of parameters are those of torchvision's `ASPP`.

    Args:
        rates: dilations.
        separable: whether the dilated convolutions are (arXiv:1802.02611, section 3.1).
        norm_between: BatchNorm and ReLU between their two parts as well.
        width: channels of each of the five, and of the result.
        kernel: of the last convolution; 1 in the papers.

    Shape: [B, channels, H, W] to [B, width, H, W].
    """

    def __init__(
        self,
        channels: int,
        rates: tuple[int, ...],
        dropout: float,
        separable: bool = False,
        norm_between: bool = False,
        width: int = CHANNELS,
        kernel: int = 1,
    ):
        super().__init__()
        depthwise = {"separable": separable, "norm_between": norm_between}
        dilated = [convolution(channels, width, dilation=rate, **depthwise) for rate in rates]
        self.convs = nn.ModuleList([convolution(channels, width, kernel=1), *dilated, ImagePooling(channels, width)])
        self.project = nn.Sequential(*convolution(len(self.convs) * width, width, kernel), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.project(torch.cat([branch(x) for branch in self.convs], dim=1))
        return found
