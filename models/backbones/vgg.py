"""VGG: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015 (arXiv:1409.1556).

The modules are torchvision's. Initialisation: the paper draws from N(0, 0.01), starts deep networks from shallow trained ones,
and names Glorot's as the way without; torchvision, and so these, use He's for convolutions (fan out, arXiv:1502.01852) and
N(0, 0.01) for linear layers. The forms with BatchNorm are later than the paper.
"""

from functools import partial
from typing import Any

import torchvision
from torch import Tensor, nn

from phalanx.models.backbones.dilation import DilatedPool, dilate
from phalanx.models.backbones.first_layer import for_channels
from phalanx.models.backbones.pooling import AdaptivePool
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options


def build(name: str, options: Options) -> Any:
    """A VGG; what the options mean here:

    - `dropout`: after each of the two hidden linear layers; the paper's 0.5 where it is not given;
    - `output_stride` 8 or 16: the last two poolings, or the last, have stride 1, and what follows is dilated.

    Shape: [B, in_channels, H, W] to [B, num_classes].
    """
    dropout = 0.5 if options.dropout is None else options.dropout
    network = getattr(torchvision.models, name)(weights=None, num_classes=options.num_classes, dropout=dropout)
    network.avgpool = AdaptivePool(7)
    if options.in_channels != 3:
        initialise = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
        network.features[0] = for_channels(network.features[0], options.in_channels, initialise)
    if options.output_stride is not None:
        _dilate(network, options.output_stride)
    convolutions = [i for i, layer in enumerate(network.features) if isinstance(layer, nn.Conv2d)]
    network.block_names = (*(f"features.{i}" for i in convolutions), "classifier.0", "classifier.3", "classifier.6")
    network.input_weight = "features.0.weight"
    return network


def _dilate(network: Any, output_stride: int) -> None:
    stride = dilation = 1
    for place, layer in enumerate(network.features):
        if isinstance(layer, nn.MaxPool2d) and stride < output_stride:
            stride *= 2
        elif isinstance(layer, nn.MaxPool2d):
            network.features[place] = DilatedPool(dilation)
            dilation *= 2
        elif dilation > 1:
            dilate([layer], dilation, dilation)


def strides(options: Options) -> tuple[int, ...]:
    """After each of the five poolings."""
    return tuple(min(2**level, options.output_stride or 32) for level in range(1, 6))


def pyramid(name: str, options: Options, channels: tuple[int, ...]) -> Pyramid:
    """The outputs of the five poolings. Odd sides are rounded up, where the classification network drops a row."""
    network = build(name, options)
    for layer in network.features:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    return Pyramid(network, ("avgpool", "classifier"), _maps, channels, strides(options))


def _maps(network: Any, image: Tensor) -> list[Tensor]:
    x, found = image, []
    for layer in network.features:
        x = layer(x)
        if isinstance(layer, nn.MaxPool2d | DilatedPool):
            found.append(x)
    return found
