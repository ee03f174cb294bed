"""Semantic FPN: the segmentation branch of Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019 (arXiv:1901.02446).

A feature pyramid of 256 channels; each of its maps is brought to a stride of 4 by 3x3 convolutions with GroupNorm, each
followed by an upsampling by two, and all are added (section 3.1, figure 3). On any backbone with four maps.
"""

from typing import Any

from torch import Tensor, nn

from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.encoder import blocks_of, encoder, four_maps
from phalanx.models.segmentation.parts.resizing import resize, size_of

_PYRAMID, _BRANCH, _GROUPS = 256, 128, 32


class _Step(nn.Sequential):
    """A 3x3 convolution, GroupNorm, ReLU. Shape: [B, channels, H, W] to [B, 128, H, W]."""

    def __init__(self, channels: int):
        layer = nn.Conv2d(channels, _BRANCH, 3, padding=1, bias=False)
        super().__init__(layer, nn.GroupNorm(_GROUPS, _BRANCH), nn.ReLU(inplace=True))


class SemanticFPN(nn.Module):
    """See the module. Shape: [B, in_channels, H, W] to [B, num_classes, H, W]."""

    def __init__(self, backbone: Pyramid, num_classes: int, dropout: float):
        super().__init__()
        self.backbone = backbone
        self.lateral = nn.ModuleList(nn.Conv2d(channels, _PYRAMID, 1) for channels in backbone.channels)
        self.smooth = nn.ModuleList(nn.Conv2d(_PYRAMID, _PYRAMID, 3, padding=1) for _ in backbone.channels)
        # One step per halving between a map and the finest; of the finest one, too.
        halvings = [max(1, (stride // backbone.strides[0]).bit_length() - 1) for stride in backbone.strides]
        self.branches = nn.ModuleList(
            nn.ModuleList(_Step(_BRANCH if place else _PYRAMID) for place in range(count)) for count in halvings
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(_BRANCH, num_classes, 1))
        own = [f"{part}.{i}" for part in ("lateral", "smooth", "branches") for i in range(len(backbone.channels))]
        self.block_names = (*blocks_of(backbone), *(name for name in own if not name.startswith("branches")))

    def forward(self, image: Tensor) -> Tensor:
        maps = self.backbone(image)
        found, coarse = list[Tensor](), None
        for place in reversed(range(len(maps))):
            fine = self.lateral[place](maps[place])
            coarse = fine if coarse is None else fine + resize(coarse, size_of(fine))
            found.insert(0, self.smooth[place](coarse))
        total = None
        for place, x in enumerate(found):
            steps: Any = self.branches[place]
            for number, step in enumerate(steps):
                x = step(x)
                if place:
                    x = resize(x, size_of(found[place - 1 - number]))
            x = resize(x, size_of(found[0]))  # where maps have one size, by dilation
            total = x if total is None else total + x
        return resize(self.classifier(total), size_of(image))


def build(name: str, options: Options) -> SemanticFPN:
    """Semantic FPN; without dropout where it is not given, as in the paper.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """
    backbone = four_maps(encoder(options), options, "a feature pyramid")
    return SemanticFPN(backbone, options.num_classes, options.dropout or 0.0)
