"""UPerNet: Xiao et al., Unified Perceptual Parsing for Scene Understanding, ECCV 2018 (arXiv:1807.10221).

The head for segmentation alone, on any backbone with four maps, as Swin's and ConvNeXt's papers and mmsegmentation have it:
pyramid pooling on the deepest map, a feature pyramid of 512 channels, its four maps fused at the finest one's size, and an
auxiliary head on the third map. The papers give numbers of parameters with their backbones; those of the table are derived.
"""

import torch
from torch import Tensor, nn

from phalanx.models.backbones.pooling import adaptive_pool
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.encoder import blocks_of, encoder, four_maps
from phalanx.models.segmentation.parts.layers import convolution, initialise_as_mmsegmentation
from phalanx.models.segmentation.parts.resizing import resize, size_of
from phalanx.models.segmentation.pspnet import AUXILIARY_WEIGHT, BINS, auxiliary_of_pspnet


class PooledContext(nn.Module):
    """Averages over grids of several sizes beside the map itself, fused by a 3x3 convolution.

    Shape: [B, channels, H, W] to [B, hidden, H, W].
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.reduce = nn.ModuleList(convolution(channels, hidden, kernel=1) for _ in BINS)
        self.fuse = convolution(channels + len(BINS) * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [resize(reduce(adaptive_pool(x, side)), size_of(x)) for side, reduce in zip(BINS, self.reduce, strict=True)]
        fused: Tensor = self.fuse(torch.cat([x, *pooled], dim=1))
        return fused


class MapNorm(nn.LayerNorm):
    """LayerNorm over the channels at each position. Shape: [B, C, H, W] to the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class UPerNet(nn.Module):
    """See the module.

    Args:
        norm_maps: a new LayerNorm of each map, as in mmsegmentation, in place of the one that Swin has before its classifier.
        auxiliary: whether there is an auxiliary head, which works while training.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; while training, with an auxiliary head, a dictionary of two such,
    `out` and `aux1`.
    """

    def __init__(
        self, backbone: Pyramid, num_classes: int, hidden: int, dropout: float, auxiliary: bool, norm_maps: bool = False
    ):
        super().__init__()
        self.backbone, self.auxiliary_weight = backbone, AUXILIARY_WEIGHT
        *finer, deepest = backbone.channels
        self.map_norms = nn.ModuleList(MapNorm(channels) for channels in backbone.channels) if norm_maps else None
        if norm_maps and isinstance(getattr(backbone, "norm", None), nn.LayerNorm):
            backbone.norm, backbone.left_out = nn.Identity(), (*backbone.left_out, "norm")
        self.context = PooledContext(deepest, hidden)
        self.lateral = nn.ModuleList(convolution(channels, hidden, kernel=1) for channels in finer)
        self.smooth = nn.ModuleList(convolution(hidden, hidden) for _ in finer)
        self.fuse = convolution(len(backbone.channels) * hidden, hidden)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(hidden, num_classes, 1))
        self.aux_classifier = None
        if auxiliary:
            self.aux_classifier = auxiliary_of_pspnet(finer[-1], num_classes)
        own = ("context", "fuse", *(f"{part}.{i}" for part in ("lateral", "smooth") for i in range(len(finer))))
        self.block_names = (*blocks_of(backbone), *own)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        size, maps = size_of(image), self.backbone(image)
        if self.map_norms is not None:
            maps = [norm(x) for norm, x in zip(self.map_norms, maps, strict=True)]
        coarse = self.context(maps[-1])
        found = [coarse]
        for place in reversed(range(len(self.lateral))):  # each map gets the coarser one, twice as large
            fine = self.lateral[place](maps[place])
            coarse = fine + resize(coarse, size_of(fine))
            found.append(self.smooth[place](coarse))
        fused = self.fuse(torch.cat([resize(x, size_of(found[-1])) for x in reversed(found)], dim=1))
        logits = resize(self.classifier(fused), size)
        if self.aux_classifier is None or not self.training:
            return logits
        return {"out": logits, "aux1": resize(self.aux_classifier(maps[-2]), size)}


def build(name: str, options: Options) -> UPerNet:
    """UPerNet; `dropout` is before the classifier, 0.1 as in mmsegmentation where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; while training `out` and `aux1`.
    """
    backbone = four_maps(encoder(options), options, "UPerNet")
    dropout = 0.1 if options.dropout is None else options.dropout
    own = options.own("hidden"), dropout, options.own("auxiliary"), options.own("norm_maps")
    network = UPerNet(backbone, options.num_classes, *own)
    if options.own("mmsegmentation"):
        parts = network.context, network.lateral, network.smooth, network.fuse, network.classifier, network.aux_classifier
        initialise_as_mmsegmentation(*parts)
    return network
