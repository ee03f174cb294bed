"""SegNet: Badrinarayanan et al., A Deep Convolutional Encoder-Decoder Architecture, TPAMI 2017 (arXiv:1511.00561).

The 13 convolutions of VGG16 with BatchNorm, and 13 that mirror them; each unpooling puts values where the pooling of the same
size had found its maxima. 29.5 million parameters (derived; the paper says 14.7M for the encoder). He's initialisation, as in
the paper.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.encoder import blocks_of, encoder
from phalanx.models.segmentation.parts.layers import convolution, initialise
from phalanx.models.segmentation.parts.resizing import size_of


class SegNet(nn.Module):
    """Figure 2 of the paper.

    Args:
        backbone: a VGG's features.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """

    def __init__(self, backbone: Pyramid, num_classes: int):
        super().__init__()
        self.backbone = backbone
        (first, *rest), *deeper = _channels(backbone)
        last = nn.Conv2d(first[1], num_classes, 3, padding=1)  # in the place of the convolution on the image
        self.decoder = nn.ModuleList(nn.Sequential(*_backwards(stage)) for stage in reversed(deeper))
        self.decoder.append(nn.Sequential(*_backwards(rest), last))
        initialise(self.decoder)
        self.block_names = (*blocks_of(backbone), *(f"decoder.{i}" for i in range(len(self.decoder))))

    def forward(self, image: Tensor) -> Tensor:
        x, poolings = image, list[tuple[Tensor, tuple[int, int]]]()
        features = self.backbone.features
        assert isinstance(features, nn.Sequential)
        for layer in features:
            if not isinstance(layer, nn.MaxPool2d):
                x = layer(x)
                continue
            size = size_of(x)
            x, places = F.max_pool2d(x, kernel_size=2, ceil_mode=True, return_indices=True)
            poolings.append((places, size))
        for (places, size), convolutions in zip(reversed(poolings), self.decoder, strict=True):
            x = convolutions(unpool(x, places, size))
        return x


def unpool(x: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """Puts each value where the maximum was, and zeros elsewhere.

    As `torch.nn.functional.max_unpool2d`, which refuses to run under `train.deterministic` on GPUs; no two values have the same
    place.

    Args:
        places: of maxima, `row * W + column`, as `max_pool2d` gives them. Shape: [B, C, h, w].
        size: H and W before the pooling.

    Shape: [B, C, h, w] to [B, C, H, W].
    """
    zeros = x.new_zeros(*x.shape[:2], size[0] * size[1])
    return zeros.scatter(2, places.flatten(2), x.flatten(2)).unflatten(2, size)


def _backwards(stage: Sequence[tuple[int, int]]) -> list[nn.Sequential]:
    """Convolutions that mirror those of a stage."""
    return [convolution(outputs, inputs) for inputs, outputs in reversed(stage)]


def _channels(backbone: Pyramid) -> list[list[tuple[int, int]]]:
    """Inputs and outputs of the convolutions of each stage, finest first."""
    features = backbone.features
    assert isinstance(features, nn.Sequential)
    stages: list[list[tuple[int, int]]] = [[]]
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            stages[-1].append((layer.in_channels, layer.out_channels))
        elif isinstance(layer, nn.MaxPool2d):
            stages.append([])
    return stages[:-1]


def build(name: str, options: Options) -> SegNet:
    """SegNet.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """
    return SegNet(encoder(options), options.num_classes)
