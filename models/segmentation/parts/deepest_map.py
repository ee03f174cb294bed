"""Networks that classify the deepest map of a backbone, with an auxiliary head on the map before."""

from torch import Tensor, nn

from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.segmentation.parts.encoder import blocks_of
from phalanx.models.segmentation.parts.resizing import resize, size_of


class DeepestMap(nn.Module):
    """A backbone, a classifier on its deepest map, and bilinear upsampling to the image's size.

    Args:
        classifier: from the deepest map to logits of its size.
        aux_classifier: the same from the map before; it works while training.
        auxiliary_weight: of its loss.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; while training, with an auxiliary head, a dictionary of two such,
    `out` and `aux1`.
    """

    def __init__(self, backbone: Pyramid, classifier: nn.Module, aux_classifier: nn.Module | None, auxiliary_weight: float):
        super().__init__()
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, aux_classifier
        self.auxiliary_weight = auxiliary_weight
        heads = ("classifier", "aux_classifier") if aux_classifier is not None else ("classifier",)
        self.block_names = (*blocks_of(backbone), *heads)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        size, maps = size_of(image), self.backbone(image)
        logits = resize(self.classifier(maps[-1]), size)
        if self.aux_classifier is None or not self.training:
            return logits
        return {"out": logits, "aux1": resize(self.aux_classifier(maps[-2]), size)}


def auxiliary_head(backbone: Pyramid, num_classes: int) -> nn.Module | None:
    """On the map before the deepest; None for a backbone of one map."""
    return FullyConvolutional(backbone.channels[-2], num_classes) if len(backbone.channels) > 1 else None


class FullyConvolutional(nn.Sequential):
    """3x3 to a quarter of the channels, BatchNorm, ReLU, dropout, 1x1 to the classes: torchvision's `FCNHead`.

    Shape: [B, channels, H, W] to [B, num_classes, H, W].
    """

    def __init__(self, channels: int, num_classes: int, dropout: float = 0.1):
        hidden = channels // 4
        super().__init__(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, num_classes, 1),
        )
