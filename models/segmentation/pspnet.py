"""PSPNet: Zhao et al., Pyramid Scene Parsing Network, CVPR 2017 (arXiv:1612.01105).

As in the paper: a dilated ResNet of stride 8, bins of 1, 2, 3 and 6, and an auxiliary loss of weight 0.4 on the fourth stage.
As in torchvision, and not in the paper's code, the ResNet begins with one 7x7 convolution (there: three 3x3), and upsampling
does not align corners. The paper gives no number of parameters; those of the table are derived.
"""

import torch
from torch import Tensor, nn

from phalanx.models.backbones.pooling import adaptive_pool
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.deepest_map import DeepestMap
from phalanx.models.segmentation.parts.encoder import encoder
from phalanx.models.segmentation.parts.layers import convolution, initialise_as_mmsegmentation
from phalanx.models.segmentation.parts.resizing import resize, size_of

BINS = (1, 2, 3, 6)
AUXILIARY_WEIGHT = 0.4  # section 5.2
_HIDDEN, _AUXILIARY_HIDDEN = 512, 256


class PyramidPooling(nn.Module):
    """Averages over grids of several sizes, each reduced to an equal share of the channels, beside the input.

    PSPNet, section 3.2 and figure 3. A bin of 1 gives BatchNorm one value a sample: a micro-batch needs two, or joint
    statistics.

    Shape: [B, channels, H, W] to [B, 2 * channels, H, W].
    """

    def __init__(self, channels: int, bins: tuple[int, ...] = BINS):
        super().__init__()
        self.bins = bins
        self.reduce = nn.ModuleList(convolution(channels, channels // len(bins), kernel=1) for _ in bins)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for side, reduce in zip(self.bins, self.reduce, strict=True):
            found.append(resize(reduce(adaptive_pool(x, side)), size_of(x)))
        return torch.cat(found, dim=1)


def build(name: str, options: Options) -> DeepestMap:
    """PSPNet; `dropout` is before the classifier, 0.1 as in the paper's code where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; while training `out` and `aux1`.
    """
    backbone = encoder(options)
    channels, classes = backbone.channels, options.num_classes
    classifier = nn.Sequential(
        PyramidPooling(channels[-1]),
        convolution(2 * channels[-1], _HIDDEN),
        nn.Dropout(0.1 if options.dropout is None else options.dropout),
        nn.Conv2d(_HIDDEN, classes, 1),
    )
    auxiliary = None
    if options.own("auxiliary") and len(channels) > 1:
        auxiliary = auxiliary_of_pspnet(channels[-2], classes)
    if options.own("mmsegmentation"):
        initialise_as_mmsegmentation(classifier, auxiliary)
    return DeepestMap(backbone, classifier, auxiliary, AUXILIARY_WEIGHT)


def auxiliary_of_pspnet(channels: int, classes: int) -> nn.Sequential:
    """The auxiliary head. Shape: [B, channels, H, W] to [B, classes, H, W]."""
    return nn.Sequential(convolution(channels, _AUXILIARY_HIDDEN), nn.Dropout(0.1), nn.Conv2d(_AUXILIARY_HIDDEN, classes, 1))
