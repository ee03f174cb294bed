"""YOLOv3's network: Darknet-53, and a pyramid whose coarse maps are brought back to the finer ones.

Redmon and Farhadi, YOLOv3: An Incremental Improvement, arXiv:1804.02767.
"""

import torch
from torch import Tensor, nn

from phalanx.models.detection.yolo.layers import Bottleneck, Conv, leaky, twice_as_large

STRIDES = (8, 16, 32)
_STAGES = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))  # channels and residual blocks, table 1 of the paper


def _five(channels: int, half: int) -> nn.Sequential:
    """Alternating 1x1 and 3x3 convolutions. Shape: [B, channels, H, W] to [B, half, H, W]."""
    widths = [channels, half, 2 * half, half, 2 * half, half]
    kernels = (1, 3, 1, 3, 1)
    layers = zip(widths[:-1], widths[1:], kernels, strict=True)
    return nn.Sequential(*(Conv(before, after, kernel, act=leaky) for before, after, kernel in layers))


class Darknet(nn.Module):
    """Darknet-53 with the three branches of YOLOv3, without their last convolutions.

    Args:
        width: factor of all channels.

    Attributes:
        channels: of the maps.

    Shape: [B, in_channels, H, W], multiples of 32, to [B, channels[i], H / STRIDES[i], W / STRIDES[i]].
    """

    def __init__(self, in_channels: int, width: float = 1.0):
        super().__init__()

        def wide(channels: int) -> int:
            return max(8, round(channels * width / 8) * 8)

        self.stem = Conv(in_channels, wide(32), 3, act=leaky)
        stages, before = [], wide(32)
        for channels, blocks in _STAGES:
            out = wide(channels)
            residual = (Bottleneck(out, out // 2, (1, 3), add=True, act=leaky) for _ in range(blocks))
            stages.append(nn.Sequential(Conv(before, out, 3, stride=2, act=leaky), *residual))
            before = out
        self.stages = nn.ModuleList(stages)
        self.coarse = _five(wide(1024), wide(512))
        self.to_middle = Conv(wide(512), wide(256), act=leaky)
        self.middle = _five(wide(512) + wide(256), wide(256))
        self.to_fine = Conv(wide(256), wide(128), act=leaky)
        self.fine = _five(wide(256) + wide(128), wide(128))
        self.last = nn.ModuleList(Conv(wide(c), wide(2 * c), 3, act=leaky) for c in (128, 256, 512))
        self.channels = (wide(256), wide(512), wide(1024))
        self.block_names = (*(f"stages.{place}" for place in range(len(_STAGES))), "coarse", "middle", "fine")

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        coarse = self.coarse(maps[4])
        middle = self.middle(torch.cat([twice_as_large(self.to_middle(coarse)), maps[3]], dim=1))
        fine = self.fine(torch.cat([twice_as_large(self.to_fine(middle)), maps[2]], dim=1))
        return [last(x) for last, x in zip(self.last, (fine, middle, coarse), strict=True)]
