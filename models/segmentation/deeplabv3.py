"""DeepLab v3: Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017 (arXiv:1706.05587).

As torchvision has it, whose names of parameters it has, so that its weights fit: at a stride of 8, with the auxiliary head of
its FCN. DeepLabV3-R50 has 42,004,074 parameters for 21 classes, DeepLabV3-R101 60,996,202, as torchvision publishes them. The
paper's multi-grid (section 3.2.1) is an option. Initialisation: torch's own in the heads, as in torchvision.
"""

from collections.abc import Sequence

from torch import nn

from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import BadOption, Options
from phalanx.models.segmentation.parts.aspp import CHANNELS, AtrousPyramid, rates_at
from phalanx.models.segmentation.parts.deepest_map import DeepestMap, auxiliary_head
from phalanx.models.segmentation.parts.encoder import encoder
from phalanx.models.segmentation.parts.layers import convolution

AUXILIARY_WEIGHT = 0.5  # torchvision's references/segmentation/train.py


def build(name: str, options: Options) -> DeepestMap:
    """DeepLab v3; what the options mean here:

    - `dropout`: after the atrous pyramid, 0.5 where it is not given;
    - `multi_grid`: factors of the dilations of the last stage's blocks, such as 1, 2, 4.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; while training `out` and `aux1`.

    Raises:
        BadOption: if a backbone's blocks do not match the factors.
    """
    backbone = encoder(options)
    if options.own("multi_grid"):
        apply_multi_grid(backbone, options.own("multi_grid"), str(options.backbone))
    dropout = 0.5 if options.dropout is None else options.dropout
    classifier = nn.Sequential(
        AtrousPyramid(backbone.channels[-1], rates_at(backbone.strides[-1]), dropout),
        *convolution(CHANNELS, CHANNELS),
        nn.Conv2d(CHANNELS, options.num_classes, 1),
    )
    auxiliary = auxiliary_head(backbone, options.num_classes) if options.own("auxiliary") else None
    return DeepestMap(backbone, classifier, auxiliary, AUXILIARY_WEIGHT)


def apply_multi_grid(backbone: Pyramid, factors: Sequence[int], name: str) -> None:
    """Multiplies the dilations of a ResNet's last stage: block i's is `factors[i]` times what its stride asks for.

    Raises:
        BadOption: if the stage has another number of blocks, or does not exist.
    """
    stage = getattr(backbone, "layer4", None)
    blocks = list(stage.children()) if isinstance(stage, nn.Sequential) else []
    if len(blocks) != len(factors):
        has = f"has {len(blocks)} blocks in its last stage" if blocks else "is not a ResNet"
        raise BadOption(
            f"model.options.multi_grid={list(factors)}: {name} {has}. Give one factor for each block of a ResNet's last "
            "stage, or remove it."
        )
    rate = 32 // backbone.strides[-1]
    for factor, block in zip(factors, blocks, strict=True):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (rate * factor, rate * factor)
