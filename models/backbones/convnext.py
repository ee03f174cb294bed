"""ConvNeXt: Liu et al., A ConvNet for the 2020s, CVPR 2022 (arXiv:2201.03545).

The modules are torchvision's: weights from N(0, 0.02), cut at 2, and layer scale 1e-6, as in the paper (appendix A).
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from phalanx.models.backbones.dilation import dilate
from phalanx.models.backbones.first_layer import for_channels
from phalanx.models.backbones.pyramid import Pyramid, pad_to_multiple
from phalanx.models.backbones.stochastic_depth import set_rate
from phalanx.models.options import Options

_STAGES = (1, 3, 5, 7)  # in `features`; between them are the layers that halve the resolution


def build(name: str, options: Options) -> Any:
    """A ConvNeXt; what the options mean here:

    - `drop_path`: torchvision's own rate where it is not given: 0.1, 0.4, 0.5, 0.5 for tiny, small, base, large;
    - `output_stride` 8 or 16: the last two layers that halve, or the last, have stride 1, and what follows is dilated.

    Shape: [B, in_channels, H, W] to [B, num_classes].
    """
    network = getattr(torchvision.models, name)(weights=None, num_classes=options.num_classes)
    if options.in_channels != 3:
        initialise = partial(nn.init.trunc_normal_, std=0.02)
        network.features[0][0] = for_channels(network.features[0][0], options.in_channels, initialise)
    if options.drop_path is not None:
        set_rate(network, options.drop_path)
    if options.dropout:
        network.classifier[1] = nn.Sequential(network.classifier[1], nn.Dropout(options.dropout))
    _dilate(network, strides(options))
    network.block_names = tuple(f"features.{stage}.{i}" for stage in _STAGES for i in range(len(network.features[stage])))
    network.input_weight = "features.0.0.weight"
    return network


def strides(options: Options) -> tuple[int, ...]:
    """Of the four stages."""
    return tuple(min(stride, options.output_stride or 32) for stride in (4, 8, 16, 32))


def _dilate(network: Any, given: tuple[int, ...]) -> None:
    dilation = 1
    for stage, before, after in zip(_STAGES[1:], given, given[1:], strict=False):
        if before != after:
            continue
        halving = network.features[stage - 1]
        strided = halving[1]
        halving[1] = _Unstrided(strided.in_channels, strided.out_channels, kernel_size=2, dilation=dilation, device="meta")
        halving[1].weight, halving[1].bias = strided.weight, strided.bias
        dilation *= 2
        dilate(network.features[stage].modules(), dilation, dilation)


class _Unstrided(nn.Conv2d):
    """A convolution of 2 by 2 with stride 1, whose windows begin at each position, as those of stride 2 do.

    Shape: [B, C, H, W] to [B, out, H, W].
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, self.dilation[1], 0, self.dilation[0])))


def pyramid(name: str, options: Options, channels: tuple[int, ...]) -> Pyramid:
    """The outputs of the four stages. Odd sides are padded with zeros, where the classification network drops a row."""
    return Pyramid(build(name, options), ("avgpool", "classifier"), _maps, channels, strides(options))


def _maps(network: Any, image: Tensor) -> list[Tensor]:
    x = network.features[0](pad_to_multiple(image, 4))
    found = []
    for stage in _STAGES:
        if stage > 1:
            normalisation, halving = network.features[stage - 1]
            x = normalisation(x)
            x = halving(pad_to_multiple(x, 2) if halving.stride == (2, 2) else x)
        x = network.features[stage](x)
        found.append(x)
    return found
