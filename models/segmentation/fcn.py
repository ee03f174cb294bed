"""FCN on any backbone, as torchvision has it: Long et al., CVPR 2015 (arXiv:1411.4038), with a dilated backbone and no skips.

The names of parameters are torchvision's, so its weights fit. FCN-R50 has 35,322,218 parameters for 21 classes with its
auxiliary head, FCN-R101 54,314,346, as torchvision publishes them. Initialisation: torch's own in the heads, as there.
"""

from phalanx.models.options import Options
from phalanx.models.segmentation.parts.deepest_map import DeepestMap, FullyConvolutional, auxiliary_head
from phalanx.models.segmentation.parts.encoder import encoder

AUXILIARY_WEIGHT = 0.5  # torchvision's references/segmentation/train.py


def build(name: str, options: Options) -> DeepestMap:
    """FCN; `dropout` is before the classifier, 0.1 where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; while training `out` and `aux1`.
    """
    backbone = encoder(options)
    dropout = 0.1 if options.dropout is None else options.dropout
    classifier = FullyConvolutional(backbone.channels[-1], options.num_classes, dropout)
    auxiliary = auxiliary_head(backbone, options.num_classes) if options.own("auxiliary") else None
    return DeepestMap(backbone, classifier, auxiliary, AUXILIARY_WEIGHT)
