"""FCN-32s, FCN-16s, FCN-8s: Long et al., Fully Convolutional Networks for Semantic Segmentation, CVPR 2015 (arXiv:1411.4038).

VGG16 whose linear layers are convolutions of 4096 channels, 7x7 and 1x1, with dropout of 0.5; FCN-16s and FCN-8s add scores of
finer poolings. As in the paper, the layers of scores begin at zero, the upsampling by 2 between them is learnt and begins as
bilinear, and the last upsampling is bilinear and fixed. FCN-32s has 134.4 million parameters for 21 classes (table 1 says
134M).

Not in the paper's code: it pads the image by 100 pixels, because its 7x7 is unpadded, and crops the result; here the 7x7 is
padded by 3, which has the same parameters, and poolings round odd sides up. The paper starts from trained VGG16; without such
weights the convolutions begin as torchvision's VGG does, and the two large ones with He's (arXiv:1502.01852).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.encoder import blocks_of, encoder
from phalanx.models.segmentation.parts.resizing import crop, resize, size_of

# How many poolings above the last give scores too.
SKIPS = {"fcn32s": 0, "fcn16s": 1, "fcn8s": 2}


class FCN(nn.Module):
    """Figure 3 of the paper.

    Args:
        backbone: VGG's five poolings.
        hidden: channels of the two large convolutions.
        skips: finer poolings that give scores too: 0, 1, 2 for FCN-32s, 16s, 8s.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """

    def __init__(self, backbone: Pyramid, num_classes: int, hidden: int, skips: int, dropout: float):
        super().__init__()
        self.backbone = backbone
        self.fc6 = nn.Conv2d(backbone.channels[-1], hidden, 7, padding=3)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.dropout = nn.Dropout(dropout)
        self.score = _zeros(nn.Conv2d(hidden, num_classes, 1))
        finer = list(reversed(backbone.channels))[1 : 1 + skips]
        self.skip_scores = nn.ModuleList(_zeros(nn.Conv2d(channels, num_classes, 1)) for channels in finer)
        self.twice = nn.ModuleList(_bilinear(num_classes) for _ in finer)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.block_names = (*blocks_of(backbone), "fc6", "fc7")

    def forward(self, image: Tensor) -> Tensor:
        *finer, deepest = self.backbone(image)
        x = self.dropout(F.relu(self.fc6(deepest)))
        scores = self.score(self.dropout(F.relu(self.fc7(x))))
        stride = self.backbone.strides[-1]
        for own, twice, skip in zip(self.skip_scores, self.twice, reversed(finer), strict=False):
            scores = crop(twice(scores), size_of(skip)) + own(skip)
            stride //= 2
        height, width = size_of(scores)
        return crop(resize(scores, (height * stride, width * stride)), size_of(image))


def _zeros(layer: nn.Conv2d) -> nn.Conv2d:
    """Scores of zero at the start (section 4.3)."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _bilinear(classes: int) -> nn.ConvTranspose2d:
    """Twice as fine, each class by itself and bilinear at the start; learnt (section 4.3).

    Shape: [B, classes, H, W] to [B, classes, 2 H, 2 W].
    """
    layer = nn.ConvTranspose2d(classes, classes, kernel_size=4, stride=2, padding=1, bias=False)
    row = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        layer.weight.copy_(torch.eye(classes)[:, :, None, None] * row[:, None] * row)
    return layer


def build(name: str, options: Options) -> FCN:
    """FCN with VGG; `dropout` is after each of the two large convolutions, 0.5 where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """
    dropout = 0.5 if options.dropout is None else options.dropout
    return FCN(encoder(options), options.num_classes, options.own("hidden"), SKIPS[name], dropout)
