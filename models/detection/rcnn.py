"""Faster and Mask R-CNN on a feature pyramid, as torchvision has them.

Ren et al., Faster R-CNN, NeurIPS 2015 (arXiv:1506.01497); He et al., Mask R-CNN, ICCV 2017 (arXiv:1703.06870); Lin et al.,
Feature Pyramid Networks, CVPR 2017 (arXiv:1612.03144). `_v2`: deeper heads with BatchNorm, from Li et al., Benchmarking
Detection Transfer Learning with Vision Transformers, 2021 (arXiv:2111.11429). Names of parameters and the initialisation are
torchvision's, so its weights fit. For 91 classes, the background among them: Faster R-CNN R50 41,755,286 parameters, v2
43,712,278; Mask R-CNN 44,401,393, v2 46,359,409, as torchvision publishes them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from phalanx.models.detection.batching import together
from phalanx.models.detection.feature_pyramid import CHANNELS, FeaturePyramid, anchor_sizes, feature_pyramid
from phalanx.models.detection.inference import Inference
from phalanx.models.detection.proposals import SAMPLES, ProposalNetwork
from phalanx.models.detection.region_heads import RegionHeads
from phalanx.models.detection.targets import on_device
from phalanx.models.options import Options

_STRIDES = (4, 8, 16, 32)
_RATIOS = (0.5, 1.0, 2.0)  # height to width of anchors
_HIDDEN = 1024
_LAYERS = [256, 256, 256, 256]


class RegionNetwork(nn.Module):
    """A network that proposes regions, and classifies each.

    Called with targets, while training, it gives the losses `rpn_objectness`, `rpn_boxes`, `classes`, `boxes` and maybe
    `masks`, each a sum and a weight; without, for each image `boxes` [k, 4] in pixels of the given image, `scores` [k], best
    first, `labels` [k] and maybe `masks` [k, 28, 28], probabilities within the box.

    Attributes:
        block_names: what FSDP2 gathers at a time.
        backbone_name: of the submodule that weights of classification fit.

    Shape: images [B, C, H, W], or B of [C, h, w], normalised; targets: for each image `boxes` [n, 4], `labels` [n] from 0,
        `masks` bool [n, H, W] if there are masks, and `seed`, a number from which its anchors and proposals are drawn.
    """

    backbone_name = "backbone.body"

    def __init__(self, backbone: FeaturePyramid, rpn: ProposalNetwork, roi_heads: RegionHeads):
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, roi_heads
        masks = ("roi_heads.mask_head",) if roi_heads.has_mask() else ()
        own = (f"backbone.{name}" for name in backbone.block_names)
        self.block_names = (*own, "rpn.head", "roi_heads.box_head", *masks)

    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        targets: Sequence[Mapping[str, Any]] | None = None,
        inference: Inference | None = None,
    ) -> Any:
        batch = together(images)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        features = self.backbone(batch)
        if targets is None:
            proposals, _ = self.rpn(ImageList(batch, sizes), features)
            return self.roi_heads.detect(features, proposals, sizes, inference or Inference())
        targets = on_device(targets, batch)
        generators = [torch.Generator().manual_seed(target["seed"]) for target in targets]
        proposals, losses = self.rpn(ImageList(batch, sizes), features, targets, generators)
        return losses | self.roi_heads(features, proposals, sizes, targets, generators)


def known_weights(
    name: str, targets: Sequence[Mapping[str, Any]], images: Tensor | Sequence[Tensor], own: Mapping[str, Any]
) -> dict[str, float]:
    """Those of the proposals: so many anchors an image. All others are so many proposals, which are predictions."""
    return dict.fromkeys(("rpn_objectness", "rpn_boxes"), float(SAMPLES * len(targets)))


def build(name: str, options: Options) -> RegionNetwork:
    """Faster or Mask R-CNN; `num_classes` counts the background. What its own options mean:

    - `norm`: `frozen` makes constants of the backbone's BatchNorm, `batch` trains it;
    - `anchors`: their sides in pixels, of each map one;
    - `samples`: proposals of an image that are learnt;
    - `hidden`, `mask_channels`: how wide the layers are that look at a proposal, and how wide and how many for its mask.

    Raises:
        BadOption: for what the backbone does not take or have, or another number of anchors.
    """
    improved, masks = name.endswith("_v2"), name.startswith("mask")
    norm = nn.BatchNorm2d if improved else None
    backbone = feature_pyramid(options, _STRIDES, LastLevelMaxPool(), norm)
    sizes = anchor_sizes(options, len(_STRIDES) + 1)
    anchors = AnchorGenerator(tuple((size,) for size in sizes), (_RATIOS,) * len(sizes))
    rpn = ProposalNetwork(anchors, RPNHead(CHANNELS, len(_RATIOS), conv_depth=2 if improved else 1))
    hidden = options.options.get("hidden", _HIDDEN)
    box_head: nn.Module = TwoMLPHead(CHANNELS * 7 * 7, hidden)
    if improved:
        box_head = FastRCNNConvFCHead((CHANNELS, 7, 7), _LAYERS, [hidden], norm_layer=norm)
    box_predictor = FastRCNNPredictor(hidden, options.num_classes)
    mask_parts = None
    if masks:
        layers = options.options.get("mask_channels", _LAYERS)
        mask_head = MaskRCNNHeads(CHANNELS, layers, 1, norm_layer=norm)
        mask_parts = (mask_head, MaskRCNNPredictor(layers[-1], layers[-1], options.num_classes))
    heads = RegionHeads(_STRIDES, options.own("samples"), box_head, box_predictor, mask_parts)
    return RegionNetwork(backbone, rpn, heads)
