"""DeepLab v2: Chen et al., DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and Fully
Connected CRFs, TPAMI 2018 (arXiv:1606.00915).

ResNet-101 at a stride of 8 and ASPP-L: four dilated 3x3 classifiers side by side, whose scores are summed. With `multi_scale`
the image is seen at 0.5, 0.75 and 1 times its size, and each position takes the largest score; each scale has a loss too, as
the paper has it from Chen et al., CVPR 2016 (arXiv:1511.03339). The dense CRF of the paper is
`phalanx.models.segmentation.crf.dense_crf`. The number of parameters is derived.

The classifiers begin at N(0, 0.01), as in the paper's code. Upsampling does not align corners, as everywhere here; BatchNorm,
which the paper froze, is trained (`model.freeze` stops its parameters, not its statistics).
"""

import torch
from torch import Tensor, nn

from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.encoder import blocks_of, encoder
from phalanx.models.segmentation.parts.resizing import resize, size_of

RATES = (6, 12, 18, 24)  # at a stride of 8
SCALES = (0.5, 0.75, 1.0)


class SummedClassifiers(nn.ModuleList):
    """Dilated 3x3 convolutions to the classes, summed.

    Shape: [B, channels, H, W] to [B, num_classes, H, W].
    """

    def __init__(self, channels: int, num_classes: int, rates: tuple[int, ...]):
        super().__init__(nn.Conv2d(channels, num_classes, 3, padding=rate, dilation=rate) for rate in rates)
        for layer in self:
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self
        scores: Tensor = first(x)
        for layer in others:
            scores = scores + layer(x)
        return scores


class DeepLabV2(nn.Module):
    """DeepLab v2.

    Args:
        multi_scale: three sizes of the image, and the largest score of them.

    Attributes:
        auxiliary_weight: of the loss of each scale: the same as of the fused scores.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; while training with `multi_scale` a dictionary of four such: `out`,
    fused, and `aux1` to `aux3` of the scales.
    """

    auxiliary_weight = 1.0

    def __init__(self, backbone: Pyramid, num_classes: int, dropout: float, multi_scale: bool):
        super().__init__()
        self.backbone, self.multi_scale = backbone, multi_scale
        rates = tuple(max(1, rate * 8 // backbone.strides[-1]) for rate in RATES)
        self.dropout = nn.Dropout(dropout)
        self.classifier = SummedClassifiers(backbone.channels[-1], num_classes, rates)
        self.block_names = (*blocks_of(backbone), "classifier")

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        size = size_of(image)
        if not self.multi_scale:
            return resize(self._scores(image), size)
        scores = [self._scores(resize(image, _scaled(size, scale))) for scale in SCALES]
        scores = [resize(each, size_of(scores[-1])) for each in scores]
        fused = resize(torch.stack(scores).amax(dim=0), size)
        if not self.training:
            return fused
        return {"out": fused} | {f"aux{place}": resize(each, size) for place, each in enumerate(scores, 1)}

    def _scores(self, image: Tensor) -> Tensor:
        scores: Tensor = self.classifier(self.dropout(self.backbone(image)[-1]))
        return scores


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def build(name: str, options: Options) -> DeepLabV2:
    """DeepLab v2; `dropout` is before the classifiers, 0 where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; with `multi_scale`, while training, `out` and `aux1` to `aux3`.
    """
    return DeepLabV2(encoder(options), options.num_classes, options.dropout or 0.0, options.own("multi_scale"))
