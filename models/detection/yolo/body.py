"""The network of YOLOv5, X and v8 up to its three maps: stages of cross-stage blocks, then a pyramid down and up again.

Path aggregation: Liu et al., arXiv:1803.01534. v5 and v8: Terven et al., arXiv:2304.00501, sections 9 and 12; X: Ge et al.,
arXiv:2107.08430.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.models.detection.yolo.layers import (
    C3,
    SPPF,
    C2f,
    Conv,
    ConvOf,
    DepthwiseConv,
    twice_as_large,
)
from phalanx.models.detection.yolo.scaling import Scale

STRIDES = (8, 16, 32)
BlockOf = Callable[[int, int, int, bool], nn.Module]  # channels, out, depth, add


@dataclass(frozen=True)
class Plan:
    """In what v5, X and v8 differ.

    Attributes:
        block: cross-stage block.
        stem_kernel: of the first convolution, with stride 2; 0: X's Focus.
        depths: blocks of the stages at strides 4, 8, 16 and 32.
        pooling_first: pyramid pooling before the last block, which then has no shortcuts.
        narrows: whether coarse maps lose half of their channels before they meet the finer ones.
        conv: the convolutions of 3 x 3 pixels, but for the first.
    """

    block: BlockOf
    stem_kernel: int
    depths: tuple[int, int, int, int]
    pooling_first: bool
    narrows: bool
    conv: ConvOf = Conv


V5 = Plan(C3, 6, (3, 6, 9, 3), pooling_first=False, narrows=True)
X = Plan(C3, 0, (3, 9, 9, 3), pooling_first=True, narrows=True)
X_DEPTHWISE = replace(X, block=partial(C3, conv=DepthwiseConv), conv=DepthwiseConv)
V8 = Plan(C2f, 3, (3, 6, 6, 3), pooling_first=False, narrows=False)


class Focus(nn.Module):
    """Every second pixel of every second row, four times, as channels; then a convolution. Shape: [B, C, H, W] to half."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.conv = Conv(4 * channels, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        reduced: Tensor = self.conv(F.pixel_unshuffle(x, 2))
        return reduced


class Body(nn.Module):
    """Stages and pyramid.

    Attributes:
        channels: of the maps.

    Shape: [B, in_channels, H, W], multiples of 32, to [B, channels[i], H / STRIDES[i], W / STRIDES[i]].
    """

    def __init__(self, plan: Plan, scale: Scale, in_channels: int):
        super().__init__()
        c1, c2, c3, c4, c5 = (scale.channels(number) for number in (64, 128, 256, 512, 1024))
        depths, block, again = [scale.blocks(number) for number in plan.depths], plan.block, scale.blocks(3)
        kernel, conv = plan.stem_kernel, plan.conv
        self.stem = Conv(in_channels, c1, kernel, 2, padding=2 if kernel == 6 else 1) if kernel else Focus(in_channels, c1)
        self.stage2 = nn.Sequential(conv(c1, c2, 3, 2), block(c2, c2, depths[0], True))
        self.stage3 = nn.Sequential(conv(c2, c3, 3, 2), block(c3, c3, depths[1], True))
        self.stage4 = nn.Sequential(conv(c3, c4, 3, 2), block(c4, c4, depths[2], True))
        last, pooling = block(c5, c5, depths[3], not plan.pooling_first), SPPF(c5, c5)
        self.stage5 = nn.Sequential(conv(c4, c5, 3, 2), *((pooling, last) if plan.pooling_first else (last, pooling)))
        narrow5, narrow4 = (c4, c3) if plan.narrows else (c5, c4)
        self.narrow5: nn.Module = Conv(c5, narrow5) if plan.narrows else nn.Identity()
        self.narrow4: nn.Module = Conv(c4, narrow4) if plan.narrows else nn.Identity()
        self.down4 = block(narrow5 + c4, c4, again, False)
        self.down3 = block(narrow4 + c3, c3, again, False)
        self.reduce3, self.reduce4 = conv(c3, c3, 3, 2), conv(c4, c4, 3, 2)
        self.up4 = block(c3 + narrow4, c4, again, False)
        self.up5 = block(c4 + narrow5, c5, again, False)
        self.channels = (c3, c4, c5)
        self.block_names = ("stage2", "stage3", "stage4", "stage5", "down4", "down3", "up4", "up5")

    def forward(self, image: Tensor) -> list[Tensor]:
        map3 = self.stage3(self.stage2(self.stem(image)))
        map4 = self.stage4(map3)
        narrow5 = self.narrow5(self.stage5(map4))
        narrow4 = self.narrow4(self.down4(torch.cat([twice_as_large(narrow5), map4], dim=1)))
        fine = self.down3(torch.cat([twice_as_large(narrow4), map3], dim=1))
        middle = self.up4(torch.cat([self.reduce3(fine), narrow4], dim=1))
        coarse = self.up5(torch.cat([self.reduce4(middle), narrow5], dim=1))
        return [fine, middle, coarse]
