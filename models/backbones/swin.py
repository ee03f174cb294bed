"""Swin Transformer: Liu et al., ICCV 2021 (arXiv:2103.14030), and its second version, CVPR 2022 (arXiv:2111.09883).

The modules are torchvision's: linear layers from N(0, 0.02), as in the paper's code. Windows are 7 by 7 (8 by 8 in the second
version) at any image size: what is missing of the last ones is padded, so weights fit images of every size.
"""

from typing import Any

import torchvision
from torch import Tensor, nn

from phalanx.models.backbones.first_layer import for_channels
from phalanx.models.backbones.pyramid import Pyramid, pad_to_multiple
from phalanx.models.backbones.stochastic_depth import set_rate
from phalanx.models.options import Options

STRIDES = (4, 8, 16, 32)
_STAGES = (1, 3, 5, 7)  # in `features`; between them are the mergings of patches


def build(name: str, options: Options) -> Any:
    """A Swin Transformer; `drop_path` is torchvision's rate where it is not given: 0.2, 0.3, 0.5 for t, s, b.

    Shape: [B, in_channels, H, W] to [B, num_classes].
    """
    network = getattr(torchvision.models, name)(weights=None, num_classes=options.num_classes)
    if options.in_channels != 3:
        network.features[0][0] = for_channels(network.features[0][0], options.in_channels, initialise=None)
    if options.drop_path is not None:
        set_rate(network, options.drop_path)
    if options.dropout:
        network.flatten = nn.Sequential(network.flatten, nn.Dropout(options.dropout))
    network.block_names = tuple(f"features.{stage}.{i}" for stage in _STAGES for i in range(len(network.features[stage])))
    network.input_weight = "features.0.0.weight"
    return network


def pyramid(name: str, options: Options, channels: tuple[int, ...]) -> Pyramid:
    """The outputs of the four stages. The last goes through the network's final normalisation, as in its classifier."""
    return Pyramid(build(name, options), ("permute", "avgpool", "flatten", "head"), _maps, channels, STRIDES)


def _maps(network: Any, image: Tensor) -> list[Tensor]:
    x, found = pad_to_multiple(image, 4), []
    for place, layer in enumerate(network.features):
        x = layer(x)  # [B, H, W, C]
        if place in _STAGES:
            found.append(network.norm(x) if place == _STAGES[-1] else x)
    return [x.permute(0, 3, 1, 2).contiguous() for x in found]
