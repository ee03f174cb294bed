"""The region proposal network: where there may be an object of any class.

Ren et al., Faster R-CNN, NeurIPS 2015 (arXiv:1506.01497), section 3; on all maps of a pyramid: Lin et al. (arXiv:1612.03144),
section 4.1. torchvision's, with its names of parameters and its proposals; here its anchors are sampled by a generator of each
image's own, its losses are sums, and boxes are never in half precision.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image

from phalanx.models.detection.inference import suppressed
from phalanx.models.detection.sampling import Counts, sampled
from phalanx.models.detection.wide import wide
from phalanx.models.detection.without_waiting import ObjectMatcher, OffsetCoder

SAMPLES = 256  # anchors of an image that are learnt
BETA = 1 / 9  # where smooth L1 becomes linear, as in torchvision and the papers' code
_POSITIVES = 0.5
_BEFORE = {"training": 2000, "testing": 1000}  # proposals of a map before non-maximum suppression
_AFTER = {"training": 2000, "testing": 1000}  # and of an image after it


class _Matched(NamedTuple):
    """The objects of the anchors of each image.

    Attributes:
        labels: [anchors] of each: 1 with an object, 0 without one, -1 if not learnt.
        truth: [anchors, 4] of each, the object's box.
        counts: on their way to the host while proposals are made.
    """

    labels: list[Tensor]
    truth: list[Tensor]
    counts: Counts


class ProposalNetwork(RegionProposalNetwork):
    """Proposals [n, 4] of each image, and while training the losses `rpn_objectness` and `rpn_boxes`.

    The sum of each loss is to be divided by `SAMPLES` an image, also where an image has fewer anchors.

    Args:
        anchors: makes anchors for each place of each map.
        head: predicts per anchor whether there is an object, and where.
    """

    def __init__(self, anchors: torch.nn.Module, head: torch.nn.Module):
        super().__init__(anchors, head, 0.7, 0.3, SAMPLES, _POSITIVES, _BEFORE, _AFTER, nms_thresh=0.7)
        self.proposal_matcher = ObjectMatcher(0.7, 0.3, allow_low_quality_matches=True)
        self.box_coder = OffsetCoder((1.0, 1.0, 1.0, 1.0))

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        targets: Sequence[Mapping[str, Any]] | None = None,
        generators: Sequence[torch.Generator] = (),
    ) -> tuple[list[Tensor], dict[str, tuple[Tensor, Any]]]:
        objectness, deltas = ([wide(each) for each in outputs] for outputs in self.head(list(features.values())))
        anchors: list[Tensor] = self.anchor_generator(images, objectness)  # [anchors, 4] of each image
        matched = None if targets is None else self._matched(anchors, targets)
        counts = [each[0].numel() for each in objectness]
        logits, moves = concat_box_prediction_layers(objectness, deltas)  # [B * anchors, 1], [B * anchors, 4]
        moves = moves.view(len(anchors), -1, 4)
        boxes = self.box_coder.decode(moves.detach().flatten(0, 1), anchors).view_as(moves)
        proposals, _ = self.filter_proposals(boxes, logits, images.image_sizes, counts)
        if matched is None:
            return proposals, {}
        return proposals, self._losses(logits.view(len(anchors), -1), moves, anchors, matched, generators)

    def _matched(self, anchors: list[Tensor], targets: Sequence[Mapping[str, Any]]) -> _Matched:
        labels, truth = self.assign_targets_to_anchors(anchors, list(targets))
        return _Matched(labels, truth, Counts(labels))

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """torchvision's; on a GPU the host waits for it once per image, in the suppression."""
        if proposals.device.type == "cpu":
            return super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)
        return self.filtered_without_waiting(proposals, objectness, image_shapes, num_anchors_per_level)

    def filtered_without_waiting(
        self, boxes: Tensor, objectness: Tensor, sizes: Sequence[tuple[int, int]], counts: Sequence[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The proposals of each image, [n, 4], and their scores, [n].

        Args:
            boxes, objectness: [B, anchors, 4] and [B * anchors, 1].
            counts: anchors of each map.
        """
        logits = objectness.detach().reshape(len(boxes), -1)
        chosen = self._get_top_n_idx(logits, list(counts))  # [B, k]
        maps = torch.cat([torch.full((count,), place, device=boxes.device) for place, count in enumerate(counts)])[chosen]
        images = torch.arange(len(boxes), device=boxes.device)[:, None]
        found = []
        for own, scores, of_map, size in zip(boxes[images, chosen], logits[images, chosen].sigmoid(), maps, sizes, strict=True):
            inside = clip_boxes_to_image(own, size)
            # Boxes that are too small are dropped: each becomes another one of the same map, which suppresses it.
            small = (inside[:, 2:] - inside[:, :2]).amin(dim=1) < self.min_size
            best = torch.where(small, -1.0, scores).argmax(dim=0, keepdim=True)  # as a number it would be waited for
            inside = torch.where(small[:, None], inside[best], inside)
            of_map, scores = torch.where(small, of_map[best], of_map), torch.where(small, -1.0, scores)
            kept = suppressed(inside, scores, of_map, self.nms_thresh)[: self.post_nms_top_n()]
            found.append((inside[kept], scores[kept]))
        proposals, sure = zip(*found, strict=True)
        return list(proposals), list(sure)

    def _losses(
        self,
        logits: Tensor,
        moves: Tensor,
        anchors: Sequence[Tensor],
        matched: _Matched,
        generators: Sequence[torch.Generator],
    ) -> dict[str, tuple[Tensor, Any]]:
        """From logits [B, anchors] and what moves the anchors, [B, anchors, 4]."""
        objectness, boxes, truth = logits.new_zeros(()), logits.new_zeros(()), matched.truth
        for image, (own, counts) in enumerate(zip(matched.labels, matched.counts.of_images(), strict=True)):
            positive, negative = sampled(own, counts, SAMPLES, _POSITIVES, generators[image])
            both = torch.cat([positive, negative])
            expected = own[both].to(logits.dtype)
            objectness = objectness + F.binary_cross_entropy_with_logits(logits[image, both], expected, reduction="sum")
            wanted = self.box_coder.encode_single(truth[image][positive].to(moves.dtype), anchors[image][positive])
            boxes = boxes + F.smooth_l1_loss(moves[image, positive], wanted, beta=BETA, reduction="sum")
        weight = float(SAMPLES * len(anchors))
        return {"rpn_objectness": (objectness, weight), "rpn_boxes": (boxes, weight)}
