"""SegFormer's decoder: Xie et al., SegFormer, NeurIPS 2021 (arXiv:2105.15203), section 3.2, on any backbone with four maps.

Each map goes through a linear layer to the same number of channels and is brought to the finest one's size; all are fused by
another linear layer with BatchNorm, as in the paper's code. Its own encoder, MiT, is in `smp/Segformer`.
"""

import torch
from torch import Tensor, nn

from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.encoder import blocks_of, encoder, four_maps
from phalanx.models.segmentation.parts.layers import convolution
from phalanx.models.segmentation.parts.resizing import resize, size_of


class SegFormerHead(nn.Module):
    """See the module. Shape: [B, in_channels, H, W] to [B, num_classes, H, W]."""

    def __init__(self, backbone: Pyramid, num_classes: int, hidden: int, dropout: float):
        super().__init__()
        self.backbone = backbone
        self.linear = nn.ModuleList(nn.Conv2d(channels, hidden, 1) for channels in backbone.channels)
        self.fuse = convolution(len(backbone.channels) * hidden, hidden, kernel=1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(hidden, num_classes, 1))
        self.block_names = (*blocks_of(backbone), *(f"linear.{i}" for i in range(len(backbone.channels))), "fuse")

    def forward(self, image: Tensor) -> Tensor:
        maps = self.backbone(image)
        found = [resize(layer(x), size_of(maps[0])) for layer, x in zip(self.linear, maps, strict=True)]
        return resize(self.classifier(self.fuse(torch.cat(found[::-1], dim=1))), size_of(image))


def build(name: str, options: Options) -> SegFormerHead:
    """SegFormer's decoder; `dropout` is before the classifier, 0.1 as in the paper's code where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """
    backbone = four_maps(encoder(options), options, "SegFormer's decoder")
    dropout = 0.1 if options.dropout is None else options.dropout
    return SegFormerHead(backbone, options.num_classes, options.own("hidden"), dropout)
