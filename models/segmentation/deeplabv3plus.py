"""DeepLabv3+: Chen et al., Encoder-Decoder with Atrous Separable Convolution, ECCV 2018 (arXiv:1802.02611).

On any backbone that has a map of stride 4. Not in the paper: after a depthwise convolution comes its 1x1 at once, without
BatchNorm and ReLU between, unless `norm_between` asks for them. With `mmsegmentation` the head is as in that project, whose
scores on Cityscapes and ADE20K are the usual ones. The paper gives no number of parameters for ResNets; those of the table are
derived.
"""

import torch
from torch import Tensor, nn

from phalanx.models.backbones.pyramid import Pyramid
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.aspp import CHANNELS, AtrousPyramid, rates_at
from phalanx.models.segmentation.parts.encoder import blocks_of, encoder, fine_map
from phalanx.models.segmentation.parts.layers import convolution, initialise_as_mmsegmentation
from phalanx.models.segmentation.parts.resizing import resize, size_of
from phalanx.models.segmentation.pspnet import AUXILIARY_WEIGHT, auxiliary_of_pspnet

_FINE_CHANNELS = 48  # table 1
_WIDE = 512  # channels in mmsegmentation


class DeepLabV3Plus(nn.Module):
    """Atrous pyramid on the deepest map; a decoder that adds the map of stride 4 (figure 2).

    Args:
        fine: the place of the map of stride 4.
        separable: depthwise separable convolutions in pyramid and decoder.
        norm_between: BatchNorm and ReLU within these convolutions as well.
        auxiliary: an auxiliary head on the map before the deepest, as PSPNet and mmsegmentation's DeepLabv3+ have it.
        mmsegmentation: 512 channels in place of 256, the pyramid's last convolution of 3x3 in place of 1x1, the dropout before
            the classifier, and the head's first weights as there.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; while training, with an auxiliary head, a dictionary of two such,
    `out` and `aux1`.
    """

    def __init__(
        self,
        backbone: Pyramid,
        fine: int,
        num_classes: int,
        dropout: float,
        separable: bool,
        auxiliary: bool = False,
        norm_between: bool = False,
        mmsegmentation: bool = False,
    ):
        super().__init__()
        self.backbone, self._fine = backbone, fine
        depthwise = {"separable": separable, "norm_between": norm_between}
        width, kernel, early = (_WIDE, 3, 0.0) if mmsegmentation else (CHANNELS, 1, dropout)
        rates = rates_at(backbone.strides[-1])
        self.aspp = AtrousPyramid(backbone.channels[-1], rates, early, **depthwise, width=width, kernel=kernel)
        self.reduce = convolution(backbone.channels[fine], _FINE_CHANNELS, kernel=1)
        self.decoder = nn.Sequential(  # table 2: two of 3x3 with 256 channels are best
            convolution(width + _FINE_CHANNELS, width, **depthwise),
            convolution(width, width, **depthwise),
        )
        self.late_dropout = nn.Dropout(dropout) if mmsegmentation else nn.Identity()
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.block_names = (*blocks_of(backbone), "aspp", "decoder")
        self.aux_classifier, self.auxiliary_weight = None, AUXILIARY_WEIGHT
        if auxiliary:
            self.aux_classifier = auxiliary_of_pspnet(backbone.channels[-2], num_classes)
        if mmsegmentation:
            initialise_as_mmsegmentation(self.aspp, self.reduce, self.decoder, self.classifier, self.aux_classifier)

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        maps, size = self.backbone(image), size_of(image)
        fine = self.reduce(maps[self._fine])
        x = torch.cat([resize(self.aspp(maps[-1]), size_of(fine)), fine], dim=1)
        logits = resize(self.classifier(self.late_dropout(self.decoder(x))), size)
        if self.aux_classifier is None or not self.training:
            return logits
        return {"out": logits, "aux1": resize(self.aux_classifier(maps[-2]), size)}


def build(name: str, options: Options) -> DeepLabV3Plus:
    """DeepLabv3+; `dropout` is after the atrous pyramid, 0.1 as in the paper's code where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """
    backbone = encoder(options)
    dropout = 0.1 if options.dropout is None else options.dropout
    own = (options.own(key) for key in ("separable", "auxiliary", "norm_between", "mmsegmentation"))
    return DeepLabV3Plus(backbone, fine_map(backbone, options), options.num_classes, dropout, *own)
