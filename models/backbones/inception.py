"""Inception v3: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016 (arXiv:1512.00567).

The modules are torchvision's: BatchNorm with eps 0.001; weights from N(0, 0.1), cut at 2, but for the auxiliary head's.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import inception as theirs

from phalanx.models.backbones.first_layer import for_channels
from phalanx.models.backbones.pooling import adaptive_pool
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options

STRIDES = (2, 4, 8, 16, 32)
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


class Inception3(torchvision.models.Inception3):
    """torchvision's, with its auxiliary head while training (section 4).

    27,161,264 parameters for 1000 classes, of which 3,326,696 are the auxiliary head's (torchvision's).

    Attributes:
        auxiliary_weight: of the auxiliary loss, 0.4 (torchvision's reference training).

    Shape: [B, in_channels, H, W], sides of at least 75, to [B, num_classes]; while training a dictionary of two such, `out`
    and `aux1`.
    """

    auxiliary_weight = 0.4

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        logits, auxiliary = self._forward(image)
        return {"out": logits, "aux1": auxiliary} if self.training else logits


class _Auxiliary(theirs.InceptionAux):
    """torchvision's, for smaller maps too than the 17 by 17 of images of 299 pixels, of which its pooling leaves 5 by 5."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, kernel_size=5, stride=3) if min(x.shape[-2:]) >= 17 else adaptive_pool(x, 5)
        x = self.conv1(self.conv0(x))
        return self.fc(adaptive_pool(x, 1).flatten(1))


def build(name: str, options: Options) -> Any:
    """Inception v3; `dropout` is before its last layer, 0.5 as in torchvision where it is not given (the paper has 0.2)."""
    return _built(options, theirs.InceptionB, theirs.InceptionD)


def _built(options: Options, to_16: type[nn.Module], to_32: type[nn.Module]) -> Any:
    """With the given blocks that reduce the resolution."""
    blocks = [theirs.BasicConv2d, theirs.InceptionA, to_16, theirs.InceptionC, to_32, theirs.InceptionE, _Auxiliary]
    dropout = 0.5 if options.dropout is None else options.dropout
    network = Inception3(num_classes=options.num_classes, inception_blocks=blocks, init_weights=True, dropout=dropout)
    if options.in_channels != 3:
        initialise = partial(nn.init.trunc_normal_, mean=0.0, std=0.1, a=-2, b=2)
        network.Conv2d_1a_3x3.conv = for_channels(network.Conv2d_1a_3x3.conv, options.in_channels, initialise)
    network.block_names = (*_STEM, *(f"Mixed_{place}" for place in _MIXED), "AuxLogits")
    network.input_weight = "Conv2d_1a_3x3.conv.weight"
    return network


class _PaddedB(theirs.InceptionB):
    """torchvision's reduction to stride 16, with padding."""

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, _pool(x)], 1)


class _PaddedD(theirs.InceptionD):
    """torchvision's reduction to stride 32, with padding."""

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([single, seven, _pool(x)], 1)


def _pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def pyramid(name: str, options: Options, channels: tuple[int, ...]) -> Pyramid:
    """The last layers of each resolution.

    The network pads only some of its convolutions, so its maps are a few pixels smaller than its strides say. Here all
    are padded by half their kernel, with the same weights.
    """
    network = _built(options, _PaddedB, _PaddedD)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding = tuple(side // 2 for side in layer.kernel_size)
    for pooling in (network.maxpool1, network.maxpool2):
        pooling.padding = 1
    return Pyramid(network, ("AuxLogits", "avgpool", "dropout", "fc"), _maps, channels, STRIDES)


def _maps(network: Any, image: Tensor) -> list[Tensor]:
    stride2 = network.Conv2d_2b_3x3(network.Conv2d_2a_3x3(network.Conv2d_1a_3x3(image)))
    stride4 = network.Conv2d_4a_3x3(network.Conv2d_3b_1x1(network.maxpool1(stride2)))
    x, found = network.maxpool2(stride4), [stride2, stride4]
    for place in _MIXED:
        x = network.get_submodule(f"Mixed_{place}")(x)
        if place in ("5d", "6e", "7c"):
            found.append(x)
    return found
