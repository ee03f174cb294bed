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
    - `stem=resnet_c`: three 3x3 convolutions in place of the 7x7 one, as in PSPNet's and DeepLab's published networks;
      `resnet_d` besides averages before the shortcuts' 1x1 convolutions, which then have no stride (He et al., Bag of Tricks,
      CVPR 2019, arXiv:1812.01187, figure 2). Names of parameters are those of timm's `resnet50d`;
    - `output_stride` 8 or 16: the last two stages, or the last, are dilated.

    Shape: [B, in_channels, H, W] to [B, num_classes].
    """
    network = getattr(torchvision.models, name)(weights=None, num_classes=options.num_classes)
    _change_stem(network, options)
    for stage, before, after in dilations(options):
        dilate(network.get_submodule(stage).modules(), before, after)
    if options.stem == "resnet_d":
        _average_in_shortcuts(network)
    network.block_names = tuple(f"{stage}.{block}" for stage in STAGES for block in range(len(getattr(network, stage))))
    network.input_weight = "conv1.0.weight" if options.stem in ("resnet_c", "resnet_d") else "conv1.weight"
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
    elif options.stem in ("resnet_c", "resnet_d"):
        network.conv1 = _three_convolutions(options.in_channels, network.conv1.out_channels)
        for layer in network.conv1[::3]:
            initialise(layer.weight)
    elif options.in_channels != 3:
        network.conv1 = for_channels(network.conv1, options.in_channels, initialise)


def _three_convolutions(channels: int, outputs: int) -> nn.Sequential:
    """The last one's BatchNorm and ReLU are the network's own. Shape: [B, channels, H, W] to [B, outputs, H / 2, W / 2]."""
    half, plain = outputs // 2, partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
    first, second, third = plain(channels, half, stride=2), plain(half, half), plain(half, outputs)
    between = [(nn.BatchNorm2d(half), nn.ReLU(inplace=True)) for _ in range(2)]
    return nn.Sequential(first, *between[0], second, *between[1], third)


def _average_in_shortcuts(network: Any) -> None:
    for stage in STAGES:
        for block in getattr(network, stage):
            if block.downsample is None:
                continue
            convolution, norm = block.downsample
            stride, convolution.stride = convolution.stride, (1, 1)
            # Odd sides: the last window is of what is there.
            pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False) if stride == (2, 2) else nn.Identity()
            block.downsample = nn.Sequential(pool, convolution, norm)


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
