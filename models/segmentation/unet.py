"""U-Net: Ronneberger et al., Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015 (arXiv:1505.04597).

Without `model.backbone` the paper's: 64 to 1024 channels, 31,030,658 parameters for its one channel and two classes (derived;
the paper does not say). Where the paper's convolutions are unpadded and give a smaller map, ours are padded by one pixel, and
give logits at the image's size; odd sides are rounded up by pooling and cut again after the up-convolution. Its dropout at the
end of the contracting path has no rate in the paper; 0.5, as in its code.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.models.options import Options
from phalanx.models.segmentation.parts.layers import initialise
from phalanx.models.segmentation.parts.resizing import crop, size_of
from phalanx.models.segmentation.parts.unet_decoder import BackboneUNet

LEVELS = 5


def two_convolutions(channels: int, outputs: int, batch_norm: bool) -> nn.Sequential:
    """Two of 3x3, each with ReLU, and BatchNorm before it if asked for.

    Shape: [B, channels, H, W] to [B, outputs, H, W].
    """
    layers: list[nn.Module] = []
    for inputs in (channels, outputs):
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)] if batch_norm else [nn.ReLU()]
    return nn.Sequential(*layers)


def halved(x: Tensor) -> Tensor:
    """Max pooling of 2 by 2. Shape: [B, C, H, W] to [B, C, ceil(H / 2), ceil(W / 2)]."""
    return F.max_pool2d(x, kernel_size=2, ceil_mode=True)


class UNet(nn.Module):
    """Figure 1 of the paper.

    Args:
        width: channels of the first level; each level below has twice as many.
        dropout: after the last two levels of the contracting path.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """

    def __init__(self, in_channels: int, num_classes: int, width: int, dropout: float, batch_norm: bool):
        super().__init__()
        channels = [width * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList(two_convolutions(a, b, batch_norm) for a, b in pairwise([in_channels, *channels]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, kernel_size=2, stride=2) for a, b in pairwise(channels))
        self.merge = nn.ModuleList(two_convolutions(2 * a, a, batch_norm) for a in channels[:-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(width, num_classes, 1)
        initialise(self)
        lists = {"down": self.down, "up": self.up, "merge": self.merge}
        self.block_names = tuple(f"{name}.{i}" for name, layers in lists.items() for i in range(len(layers)))
        self.input_weight = "down.0.0.weight"

    def forward(self, image: Tensor) -> Tensor:
        x, skips = image, list[Tensor]()
        for level, convolutions in enumerate(self.down):
            x = convolutions(halved(x) if level else x)
            x = self.dropout(x) if level >= LEVELS - 2 else x
            skips.append(x)
        for level in reversed(range(LEVELS - 1)):
            skip = self.gated(level, skips[level], x)
            x = crop(self.up[level](x), size_of(skip))
            x = self.merge[level](torch.cat([skip, x], dim=1))
        logits: Tensor = self.head(x)
        return logits

    def gated(self, level: int, skip: Tensor, deeper: Tensor) -> Tensor:
        """What of a skip connection is used: all of it. Shape: [B, C, H, W] to the same."""
        return skip


def build(name: str, options: Options) -> nn.Module:
    """The paper's U-Net; with a backbone, its decoder on the backbone's maps.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """
    if options.backbone is not None:
        return BackboneUNet(options)
    dropout = 0.5 if options.dropout is None else options.dropout
    return UNet(options.in_channels, options.num_classes, options.own("width"), dropout, options.own("batch_norm"))
