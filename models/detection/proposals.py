"""The region proposal network: where there may be an object of any class.

Ren et al., Faster R-CNN, NeurIPS 2015 (arXiv:1506.01497), section 3; on all maps of a pyramid: Lin et al. (arXiv:1612.03144),
section 4.1. torchvision's, with its names of parameters and its proposals; here its anchors are sampled by a generator of each
image's own, its losses are sums, and boxes are never in half precision.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from phalanx.models.detection.sampling import sampled
from phalanx.models.detection.wide import wide

SAMPLES = 256  # anchors of an image that are learnt
BETA = 1 / 9  # where smooth L1 becomes linear, as in torchvision and the papers' code
_POSITIVES = 0.5
_BEFORE = {"training": 2000, "testing": 1000}  # proposals of a map before non-maximum suppression
_AFTER = {"training": 2000, "testing": 1000}  # and of an image after it


class ProposalNetwork(RegionProposalNetwork):
    """Proposals [n, 4] of each image, and while training the losses `rpn_objectness` and `rpn_boxes`.

    The sum of each loss is to be divided by `SAMPLES` an image, also where an image has fewer anchors.

    Args:
        anchors: makes anchors for each place of each map.
        head: predicts per anchor whether there is an object, and where.
    """

    def __init__(self, anchors: torch.nn.Module, head: torch.nn.Module):
        super().__init__(anchors, head, 0.7, 0.3, SAMPLES, _POSITIVES, _BEFORE, _AFTER, nms_thresh=0.7)

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        targets: Sequence[Mapping[str, Any]] | None = None,
        generators: Sequence[torch.Generator] = (),
    ) -> tuple[list[Tensor], dict[str, tuple[Tensor, Any]]]:
        objectness, deltas = ([wide(each) for each in outputs] for outputs in self.head(list(features.values())))
        anchors: list[Tensor] = self.anchor_generator(images, objectness)  # [anchors, 4] of each image
        counts = [each[0].numel() for each in objectness]
        logits, moves = concat_box_prediction_layers(objectness, deltas)  # [B * anchors, 1], [B * anchors, 4]
        moves = moves.view(len(anchors), -1, 4)
        boxes = self.box_coder.decode(moves.detach().flatten(0, 1), anchors).view_as(moves)
        proposals, _ = self.filter_proposals(boxes, logits, images.image_sizes, counts)
        if targets is None:
            return proposals, {}
        return proposals, self._losses(logits.view(len(anchors), -1), moves, anchors, targets, generators)

    def _losses(
        self,
        logits: Tensor,
        moves: Tensor,
        anchors: Sequence[Tensor],
        targets: Sequence[Mapping[str, Any]],
        generators: Sequence[torch.Generator],
    ) -> dict[str, tuple[Tensor, Any]]:
        """From logits [B, anchors] and what moves the anchors, [B, anchors, 4]."""
        labels, truth = self.assign_targets_to_anchors(anchors, targets)
        objectness, boxes = logits.new_zeros(()), logits.new_zeros(())
        for image, own in enumerate(labels):
            positive, negative = sampled(own, SAMPLES, _POSITIVES, generators[image])
            both = torch.cat([positive, negative])
            expected = own[both].to(logits.dtype)
            objectness = objectness + F.binary_cross_entropy_with_logits(logits[image, both], expected, reduction="sum")
            wanted = self.box_coder.encode_single(truth[image][positive].to(moves.dtype), anchors[image][positive])
            boxes = boxes + F.smooth_l1_loss(moves[image, positive], wanted, beta=BETA, reduction="sum")
        weight = float(SAMPLES * len(anchors))
        return {"rpn_objectness": (objectness, weight), "rpn_boxes": (boxes, weight)}
