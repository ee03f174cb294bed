"""What is in each proposal: its class, a better box, and its mask.

Girshick, Fast R-CNN, ICCV 2015 (arXiv:1504.08083), section 2; masks and RoIAlign: He et al., Mask R-CNN, ICCV 2017
(arXiv:1703.06870), section 3; which map a proposal is assigned to: Lin et al. (arXiv:1612.03144), equation 1. torchvision's,
with its names of parameters and its detections; here proposals are sampled by a generator of each image's own, losses are sums,
and boxes are never in half precision.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import clip_boxes_to_image, roi_align
from torchvision.ops.poolers import LevelMapper

from phalanx.models.detection.inference import Inference, suppressed
from phalanx.models.detection.proposals import BETA
from phalanx.models.detection.sampling import Counts, sampled
from phalanx.models.detection.targets import sent
from phalanx.models.detection.wide import wide
from phalanx.models.detection.without_waiting import LevelPool, ObjectMatcher, OffsetCoder

_SMALLEST_SIDE = 1e-2  # of a detection, in pixels
_POSITIVES = 0.25  # largest share of the proposals that are learnt that is of an object
Size = tuple[int, int]


@dataclass(frozen=True)
class _Sample:
    """The proposals of an image that are learnt, those of an object first.

    Attributes:
        boxes: [n, 4].
        labels: int64 [n], 0 for none.
        objects: int64 [n], which of the image's objects each is of.
        positives: how many are of an object.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor
    positives: int


class RegionHeads(RoIHeads):
    """Losses of sampled proposals, or detections.

    Args:
        strides: of the maps that proposals are assigned to.
        samples: proposals of an image that are learnt.
        masks: head and predictor of masks, if there are any.
    """

    def __init__(
        self,
        strides: Sequence[int],
        samples: int,
        box_head: nn.Module,
        box_predictor: nn.Module,
        masks: tuple[nn.Module, nn.Module] | None = None,
    ):
        defaults = Inference()
        super().__init__(
            *(_pool(strides, 7), box_head, box_predictor),
            *(0.5, 0.5, samples, _POSITIVES, None),
            *(defaults.score, defaults.nms_iou, defaults.detections),
        )
        self.proposal_matcher = ObjectMatcher(0.5, 0.5)
        self.box_coder = OffsetCoder((10.0, 10.0, 5.0, 5.0))
        self._samples = samples
        if masks is not None:
            self.mask_roi_pool = _pool(strides, 14)
            self.mask_head, self.mask_predictor = masks

    def forward(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        sizes: Sequence[Size],
        targets: Sequence[Mapping[str, Any]],
        generators: Sequence[torch.Generator],
    ) -> dict[str, tuple[Tensor, Any]]:
        """The losses `classes`, `boxes` and, if there are masks, `masks`; weights are proposals of this batch.

        Args:
            features: maps [B, channels, h, w] by name.
            proposals: [n, 4] of each image.
            sizes: height and width of each image.
            targets: of each image `boxes` [n, 4], `labels` [n] from 0, `masks` bool [n, H, W].
            generators: of each image.
        """
        samples = self._sampled(proposals, targets, generators)
        logits, moves = self._outputs(features, [sample.boxes for sample in samples], sizes)
        labels = torch.cat([sample.labels for sample in samples])
        found = {"classes": (F.cross_entropy(logits[: len(labels)], labels, reduction="sum"), len(labels))}
        found["boxes"] = (self._of_boxes(moves, samples, targets), len(labels))
        if self.has_mask():
            found["masks"] = self._of_masks(features, samples, targets, sizes)
        return found

    def _sampled(
        self, proposals: Sequence[Tensor], targets: Sequence[Mapping[str, Any]], generators: Sequence[torch.Generator]
    ) -> list[_Sample]:
        """Some proposals of each image; the objects' own boxes are among them, so that there is something to learn at first.

        On a GPU the host waits once, for the numbers of proposals that are of an object and of none.
        """
        truth, classes = [target["boxes"] for target in targets], [target["labels"] + 1 for target in targets]
        candidates = [torch.cat(pair) for pair in zip(proposals, truth, strict=True)]
        of_objects, of_labels = self.assign_targets_to_proposals(candidates, truth, classes)
        counts, samples = Counts(of_labels).of_images(), []
        for boxes, objects, labels, own, generator in zip(candidates, of_objects, of_labels, counts, generators, strict=True):
            positive, negative = sampled(labels, own, self._samples, _POSITIVES, generator)
            both = torch.cat([positive, negative])
            samples.append(_Sample(boxes[both], labels[both], objects[both], len(positive)))
        return samples

    def _outputs(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], sizes: Sequence[Size]) -> tuple[Tensor, Tensor]:
        """Logits [n, classes], and what moves the boxes of each class, [n, 4 * classes]."""
        seen = self.box_roi_pool(features, _at_least_one(boxes, sizes) if self.training else boxes, sizes)
        logits, moves = self.box_predictor(self.box_head(seen))
        return wide(logits), wide(moves)

    def _of_boxes(self, moves: Tensor, samples: Sequence[_Sample], targets: Sequence[Mapping[str, Any]]) -> Tensor:
        """Smooth L1 of the boxes of objects, each from where its class would move it."""
        moves = moves.view(len(moves), -1, 4)
        total, first = moves.new_zeros(()), 0
        for sample, target in zip(samples, targets, strict=True):
            positives = sample.positives
            own, labels = moves[first : first + positives], sample.labels[:positives]
            truth = target["boxes"][sample.objects[:positives]]
            wanted = self.box_coder.encode_single(truth, sample.boxes[:positives])
            places = torch.arange(positives, device=own.device)
            total = total + F.smooth_l1_loss(own[places, labels], wanted, beta=BETA, reduction="sum")
            first += len(sample.boxes)
        return total

    def _of_masks(
        self,
        features: Mapping[str, Tensor],
        samples: Sequence[_Sample],
        targets: Sequence[Mapping[str, Any]],
        sizes: Sequence[Size],
    ) -> tuple[Tensor, int]:
        """Binary cross-entropy of the mask of each object's class, its mean over the pixels; weight: proposals of an object."""
        boxes = [sample.boxes[: sample.positives] for sample in samples]
        logits = self._masks_of(features, _at_least_one(boxes, sizes), sizes)
        labels = torch.cat([sample.labels[: sample.positives] for sample in samples])
        pairs = zip(samples, targets, strict=True)
        wanted = torch.cat([_within(sample, target["masks"], logits) for sample, target in pairs])
        own = logits[torch.arange(len(labels), device=logits.device), labels]  # [positives, 28, 28]
        pixels = math.prod(logits.shape[-2:])
        return F.binary_cross_entropy_with_logits(own, wanted, reduction="sum") / pixels, len(labels)

    def _masks_of(self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], sizes: Sequence[Size]) -> Tensor:
        """Logits of the mask of each class within each box, [n, classes, 28, 28]."""
        return wide(self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, sizes))))

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: Sequence[Tensor], image_shapes: Sequence[Size]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """torchvision's; on a GPU the host waits for it once, and once per image in the suppression."""
        split = [len(each) for each in proposals]
        decoded = self.box_coder.decode(box_regression, list(proposals)).split(split)
        found = []
        for boxes, sure, size in zip(decoded, class_logits.softmax(dim=-1).split(split), image_shapes, strict=True):
            places, scores = clip_boxes_to_image(boxes, size)[:, 1:].reshape(-1, 4), sure[:, 1:]  # the first is the background
            labels = torch.arange(1, sure.shape[1], device=sure.device).expand_as(scores).reshape(-1)
            scores, sides = scores.reshape(-1), places[:, 2:] - places[:, :2]
            found.append((places, scores, labels, (scores > self.score_thresh) & (sides >= _SMALLEST_SIDE).all(dim=1)))
        counts = torch.stack([there.sum() for *_, there in found]).tolist()
        kept = []
        for (*values, there), count in zip(found, counts, strict=True):
            candidates = torch.nonzero_static(there, size=count).squeeze(1)
            boxes, scores, labels = (value[candidates] for value in values)
            best = suppressed(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
            kept.append((boxes[best], scores[best], labels[best]))
        boxes_of, scores_of, labels_of = (list(each) for each in zip(*kept, strict=True))
        return boxes_of, scores_of, labels_of

    def detect(
        self, features: Mapping[str, Tensor], proposals: Sequence[Tensor], sizes: Sequence[Size], wanted: Inference
    ) -> list[dict[str, Tensor]]:
        """Of each image `boxes` [k, 4], `scores` [k], best first, `labels` [k] from 0, maybe `masks` [k, 28, 28]."""
        logits, moves = self._outputs(features, proposals, sizes)
        self.score_thresh, self.nms_thresh, self.detections_per_img = wanted.score, wanted.nms_iou, wanted.detections
        boxes, scores, labels = self.postprocess_detections(logits, moves, proposals, sizes)
        found = [
            {"boxes": box, "scores": score, "labels": label - 1}
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ]
        if self.has_mask():
            masks = maskrcnn_inference(self._masks_of(features, boxes, sizes), labels)
            for one, mask in zip(found, masks, strict=True):
                one["masks"] = mask.squeeze(1)
        return found


def _pool(strides: Sequence[int], side: int) -> LevelPool:
    """Looks at boxes in side x side bins, each on the map that its size asks for.

    torchvision's would guess the strides from the first images that come, and keep them.
    """
    pool = LevelPool([str(place) for place in range(len(strides))], side, sampling_ratio=2)
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = LevelMapper(int(math.log2(strides[0])), int(math.log2(strides[-1])))
    return pool


def _at_least_one(boxes: Sequence[Tensor], sizes: Sequence[Size]) -> list[Tensor]:
    """The boxes; if no image has any, the full first image, with weight 0.

    So BatchNorm has something to see, and each parameter a gradient, which is zero.
    """
    if any(len(each) for each in boxes):
        return list(boxes)
    height, width = sizes[0]
    return [sent(torch.tensor([[0, 0, width, height]], dtype=boxes[0].dtype), boxes[0].device), *boxes[1:]]


@torch.no_grad()
def _within(sample: _Sample, masks: Tensor, like: Tensor) -> Tensor:
    """What there is of each object's mask within its proposal: shares of pixels, [positives, h, w], as `like` [..., h, w].

    Pixels are areas here (RoIAlign's `aligned`), where torchvision shifts masks by half of one: `paste` undoes just this.
    """
    boxes, objects = sample.boxes[: sample.positives], sample.objects[: sample.positives]
    if not len(boxes):
        return like.new_zeros(0, *like.shape[-2:])
    numbered = torch.cat([objects[:, None].to(boxes), boxes], dim=1)
    inside: Tensor = roi_align(masks[:, None].to(boxes), numbered, tuple(like.shape[-2:]), aligned=True)
    return inside.squeeze(1).to(like.dtype)
