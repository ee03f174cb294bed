"""DeepLab v1: Chen et al., Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs, ICLR 2015
(arXiv:1412.7062).

DeepLab-LargeFOV: VGG16 at a stride of 8 with poolings of 3x3, whose first linear layer is a 3x3 convolution with a dilation of
12, both of 1024 channels; 20.5M parameters, as the paper says. DeepLab-MSc-LargeFOV adds to the last features those of the
image and of the first four poolings (section 4.3). The dense CRF of the paper is `phalanx.models.segmentation.crf.dense_crf`.

The paper starts from trained VGG16; without such weights the convolutions begin as torchvision's VGG does, and the new ones
with He's (arXiv:1502.01852). Upsampling does not align corners, as everywhere here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.models.backbones.dilation import DilatedPool
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.encoder import blocks_of, encoder
from phalanx.models.segmentation.parts.layers import initialise
from phalanx.models.segmentation.parts.resizing import resize, size_of

HIDDEN, DILATION = 1024, 12
_BRANCH = 128  # section 4.3


class LargeFOV(nn.Module):
    """DeepLab-LargeFOV.

    Args:
        backbone: VGG's five poolings, the last three of them at a stride of 8.
        multi_scale: the branches of DeepLab-MSc, on the image and the first four poolings.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """

    def __init__(self, backbone: Pyramid, in_channels: int, num_classes: int, dropout: float, multi_scale: bool):
        super().__init__()
        self.backbone = backbone
        stride = backbone.strides[-1]
        dilation = max(1, DILATION * 8 // stride)
        self.fc6 = nn.Conv2d(backbone.channels[-1], HIDDEN, 3, padding=dilation, dilation=dilation)
        self.fc7 = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.dropout = nn.Dropout(dropout)
        inputs = [(in_channels, 1), *zip(backbone.channels[:4], backbone.strides[:4], strict=True)] if multi_scale else []
        self.branches = nn.ModuleList(_branch(channels, stride // own) for channels, own in inputs)
        self.score = nn.Conv2d(HIDDEN + _BRANCH * len(self.branches), num_classes, 1)
        for layer in (self.fc6, self.fc7, self.branches):
            initialise(layer)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]
        self.block_names = (*blocks_of(backbone), "fc6", "fc7", *(f"branches.{i}" for i in range(len(self.branches))))

    def forward(self, image: Tensor) -> Tensor:
        maps = self.backbone(image)
        x = self.dropout(F.relu(self.fc6(maps[-1])))
        x = self.dropout(F.relu(self.fc7(x)))
        beside = [branch(given) for branch, given in zip(self.branches, (image, *maps), strict=False)]
        return resize(self.score(torch.cat([x, *beside], dim=1)), size_of(image))


def _branch(channels: int, stride: int) -> nn.Sequential:
    """3x3 and 1x1, each of 128 channels with ReLU; the stride brings them to the last features' size."""
    first = nn.Conv2d(channels, _BRANCH, 3, stride=stride, padding=1)
    return nn.Sequential(first, nn.ReLU(inplace=True), nn.Conv2d(_BRANCH, _BRANCH, 1), nn.ReLU(inplace=True))


def build(name: str, options: Options) -> LargeFOV:
    """DeepLab-LargeFOV; `dropout` is after each of the two large convolutions, 0.5 where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """
    backbone = encoder(options)
    _pool_three_by_three(backbone)
    dropout = 0.5 if options.dropout is None else options.dropout
    return LargeFOV(backbone, options.in_channels, options.num_classes, dropout, options.own("multi_scale"))


def _pool_three_by_three(backbone: Pyramid) -> None:
    """The paper's code pools 3x3 pixels, not 2x2; poolings that lost their stride too."""
    features = backbone.features
    assert isinstance(features, nn.Sequential)
    for place, layer in enumerate(features):
        if isinstance(layer, nn.MaxPool2d):
            features[place] = nn.MaxPool2d(3, stride=2, padding=1)
        elif isinstance(layer, DilatedPool):
            features[place] = nn.MaxPool2d(3, stride=1, padding=1)
