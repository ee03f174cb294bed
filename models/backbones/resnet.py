"""Residual networks: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv:1512.03385).

Also ResNeXt (Xie et al., CVPR 2017, arXiv:1611.05431) and wide ones (Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146).
The modules are torchvision's, with its names of parameters and its initialisation: He's for convolutions (fan out,
arXiv:1502.01852). As in torchvision, the stride of a bottleneck is in its 3x3 convolution; the paper has it in the first 1x1.
"""

from functools import partial
from typing import Any

import torchvision
from torch import Tensor, nn

from phalanx.models.backbones.dilation import dilate
from phalanx.models.backbones.first_layer import for_channels
from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options

STAGES = ("layer1", "layer2", "layer3", "layer4")


def build(name: str, options: Options) -> Any:
    """A ResNet; what the options mean here:

    - `stem=small`: a 3x3 convolution with stride 1 and no pooling, as section 4.2 has it for CIFAR's 32-pixel images;
    - `output_stride` 8 or 16: the last two stages, or the last, are dilated.

    Shape: [B, in_channels, H, W] to [B, num_classes].
    """
    network = getattr(torchvision.models, name)(weights=None, num_classes=options.num_classes)
    _change_stem(network, options)
    for stage, before, after in dilations(options):
        dilate(network.get_submodule(stage).modules(), before, after)
    network.block_names = tuple(f"{stage}.{block}" for stage in STAGES for block in range(len(getattr(network, stage))))
    network.input_weight = "conv1.weight"
    if options.dropout:
        network.avgpool = nn.Sequential(network.avgpool, nn.Dropout(options.dropout))
    return network


def _change_stem(network: Any, options: Options) -> None:
    """Other channels, another size: a new first convolution, initialised as torchvision does it."""
    initialise = partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
    if options.stem == "small":
        network.conv1 = nn.Conv2d(options.in_channels, network.conv1.out_channels, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
        initialise(network.conv1.weight)
    elif options.in_channels != 3:
        network.conv1 = for_channels(network.conv1, options.in_channels, initialise)


def strides(options: Options) -> tuple[int, ...]:
    """Of the four stages."""
    stem = 1 if options.stem == "small" else 4
    own = [stem * 2**stage for stage in range(4)]
    return tuple(min(stride, options.output_stride or own[-1]) for stride in own)


def dilations(options: Options) -> list[tuple[str, int, int]]:
    """Stages that lose their stride: name, dilation of what is before it, and after."""
    given, found, dilation = strides(options), [], 1
    for stage, before, after in zip(STAGES[1:], given, given[1:], strict=False):
        if before == after:
            found.append((stage, dilation, 2 * dilation))
            dilation *= 2
    return found


def pyramid(name: str, options: Options, channels: tuple[int, ...]) -> Pyramid:
    """The outputs of the four stages."""
    return Pyramid(build(name, options), ("avgpool", "fc"), _maps, channels, strides(options))


def _maps(network: Any, image: Tensor) -> list[Tensor]:
    x = network.maxpool(network.relu(network.bn1(network.conv1(image))))
    found = []
    for stage in STAGES:
        x = network.get_submodule(stage)(x)
        found.append(x)
    return found
