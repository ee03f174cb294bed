"""GoogLeNet: Szegedy et al., Going Deeper with Convolutions, CVPR 2015 (arXiv:1409.4842).

The modules are torchvision's: with BatchNorm (eps 0.001), which is later than the paper; weights from N(0, 0.01), cut at 2; 3x3
convolutions in the branches that the paper gives 5x5 (its weights were made so).
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d, Inception, InceptionAux

from phalanx.models.backbones.first_layer import for_channels
from phalanx.models.backbones.pooling import adaptive_pool
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options

STRIDES = (2, 4, 8, 16, 32)
_INCEPTIONS = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")


class GoogLeNet(torchvision.models.GoogLeNet):
    """torchvision's, with its two auxiliary heads while training (section 5).

    6,624,904 parameters for 1000 classes without auxiliary heads, 13,004,888 with them (torchvision's).

    Attributes:
        auxiliary_weight: of each auxiliary loss, 0.3 (section 5).

    Shape: [B, in_channels, H, W] to [B, num_classes]; while training a dictionary of three such, `out`, `aux1` after
    inception 4a, `aux2` after 4d.
    """

    auxiliary_weight = 0.3

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        logits, aux2, aux1 = self._forward(image)
        return {"out": logits, "aux1": aux1, "aux2": aux2} if self.training else logits


class _Auxiliary(InceptionAux):
    """torchvision's, with a pooling whose gradient is deterministic on GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(adaptive_pool(x, 4)).flatten(1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


def build(name: str, options: Options) -> Any:
    """GoogLeNet; `dropout` is before its last layer, 0.2 as in torchvision where it is not given (the paper has 0.4)."""
    dropout = 0.2 if options.dropout is None else options.dropout
    blocks = [BasicConv2d, Inception, _Auxiliary]
    network: Any = GoogLeNet(num_classes=options.num_classes, init_weights=True, blocks=blocks, dropout=dropout)
    if options.in_channels != 3:
        initialise = partial(nn.init.trunc_normal_, mean=0.0, std=0.01, a=-2, b=2)
        network.conv1.conv = for_channels(network.conv1.conv, options.in_channels, initialise)
    network.block_names = ("conv1", "conv2", "conv3", *(f"inception{place}" for place in _INCEPTIONS), "aux1", "aux2")
    network.input_weight = "conv1.conv.weight"
    return network


class _PaddedPool(nn.Module):
    """Max pooling of 3 by 3 with stride 2 whose output is ceil(H / 2) by ceil(W / 2), odd sides too.

    For even sides it is torchvision's, which drops the last row of odd ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), value=float("-inf"))
        return F.max_pool2d(x, kernel_size=3, stride=2, ceil_mode=True)


def pyramid(name: str, options: Options, channels: tuple[int, ...]) -> Pyramid:
    """What each pooling and the last inception of each resolution give. Odd sides are rounded up."""
    network = build(name, options)
    network.maxpool1, network.maxpool2, network.maxpool3 = _PaddedPool(), _PaddedPool(), _PaddedPool()
    return Pyramid(network, ("aux1", "aux2", "avgpool", "dropout", "fc"), _maps, channels, STRIDES)


def _maps(network: Any, image: Tensor) -> list[Tensor]:
    stride2 = network.conv1(image)
    stride4 = network.conv3(network.conv2(network.maxpool1(stride2)))
    stride8 = network.inception3b(network.inception3a(network.maxpool2(stride4)))
    x = network.maxpool3(stride8)
    for place in _INCEPTIONS[2:7]:
        x = network.get_submodule(f"inception{place}")(x)
    stride16 = x
    stride32 = network.inception5b(network.inception5a(network.maxpool4(stride16)))
    return [stride2, stride4, stride8, stride16, stride32]
