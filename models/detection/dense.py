"""RetinaNet and FCOS, which predict at every place of every map at once, as in torchvision.

Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (arXiv:1708.02002); Tian et al., FCOS, ICCV 2019
(arXiv:1904.01355). Names of parameters, initialisation, losses and detections are torchvision's, so its weights fit. For 91
classes, the background among them, as torchvision counts: RetinaNet R50 34,014,999 parameters, FCOS R50 32,269,600.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from phalanx.models.detection.batching import together
from phalanx.models.detection.feature_pyramid import CHANNELS, FeaturePyramid, anchor_sizes, feature_pyramid
from phalanx.models.detection.inference import Inference
from phalanx.models.detection.targets import on_device
from phalanx.models.detection.wide import wide
from phalanx.models.detection.without_waiting import ObjectMatcher, OffsetCoder
from phalanx.models.options import Options

_STRIDES, _LEVELS = (8, 16, 32), 5
_RATIOS = (0.5, 1.0, 2.0)  # height to width of anchors
_SCALES = (1, 2 ** (1 / 3), 2 ** (2 / 3))  # of the anchors of a place
_TINY = 1e-7
Outputs = dict[str, Tensor]


class _Dense:
    """What both have in common: images in, losses or detections out, as `phalanx.models.detection.rcnn` has them.

    torchvision has an output for the background too, which nothing is ever learnt as.
    """

    backbone_name = "backbone.body"

    def _prepare(self: Any, backbone: FeaturePyramid) -> None:
        own = (f"backbone.{name}" for name in backbone.block_names)
        self.block_names = (*own, "head.classification_head", "head.regression_head")

    def forward(
        self: Any,
        images: Tensor | Sequence[Tensor],
        targets: Sequence[Mapping[str, Any]] | None = None,
        inference: Inference | None = None,
    ) -> Any:
        batch = together(images)
        listed = ImageList(batch, [(image.shape[-2], image.shape[-1]) for image in images])
        maps = list(self.backbone(batch).values())
        outputs = {name: wide(value) for name, value in self.head(maps).items()}  # [B, places, ...] each
        like = wide(batch[:0])
        anchors = self.anchor_generator(listed, [like.new_empty(each.shape[-2:]) for each in maps])
        per_place = self.anchor_generator.num_anchors_per_location()[0]
        counts = [each.shape[-2] * each.shape[-1] * per_place for each in maps]
        if targets is not None:
            own = [target | {"labels": target["labels"] + 1} for target in on_device(targets, batch)]
            return self._losses(own, outputs, anchors, counts)
        return self._detections(outputs, anchors, counts, listed.image_sizes, inference or Inference())

    def _detections(
        self: Any, outputs: Outputs, anchors: Sequence[Tensor], counts: Sequence[int], sizes: Sequence[Any], wanted: Inference
    ) -> list[dict[str, Tensor]]:
        self.score_thresh, self.nms_thresh, self.detections_per_img = wanted.score, wanted.nms_iou, wanted.detections
        of_maps = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
        of_maps["cls_logits"] = [_without_background(each) for each in of_maps["cls_logits"]]
        found = self.postprocess_detections(of_maps, [list(each.split(counts)) for each in anchors], sizes)
        return [one | {"labels": one["labels"] - 1} for one in found]


def _without_background(logits: Tensor) -> Tensor:
    """With a probability of zero for the first class. Shape: [B, places, classes]."""
    return torch.cat([torch.full_like(logits[..., :1], -torch.inf), logits[..., 1:]], dim=-1)


class _CoarseMaps(LastLevelP6P7):
    """The two coarsest maps, out of autocast, which costs next to nothing.

    On CPUs the weight's gradient of a convolution in bf16 is partly uninitialized memory, if a 3x3 kernel with
    stride 2 sees one pixel: torch 2.14 (oneDNN), images of up to 64 pixels.
    """

    def __init__(self) -> None:
        super().__init__(CHANNELS, CHANNELS)

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        last = p[-1].to(self.p6.weight.dtype)
        with torch.autocast(last.device.type, enabled=False):
            (_, *coarse), names = super().forward([last], c, names)
        return [*p, *coarse], names


class RetinaNet(_Dense, detection.RetinaNet):
    """The losses `classes` and `boxes`: of each image divided by its anchors of objects, and then added; weight: images."""

    def __init__(self, backbone: FeaturePyramid, classes: int, anchors: AnchorGenerator):
        super().__init__(backbone, classes, anchor_generator=anchors)
        self.proposal_matcher = ObjectMatcher(0.5, 0.4, allow_low_quality_matches=True)
        self.box_coder = OffsetCoder((1.0, 1.0, 1.0, 1.0))
        self._prepare(backbone)

    def _losses(
        self, targets: Sequence[Mapping[str, Any]], outputs: Outputs, anchors: Sequence[Tensor], counts: Sequence[int]
    ) -> dict[str, tuple[Tensor, Any]]:
        """torchvision's; sums are over all anchors, with zeros: how many are selected only the device knows."""
        classes, boxes = [], []
        for target, logits, moves, own in zip(targets, outputs["cls_logits"], outputs["bbox_regression"], anchors, strict=True):
            truth, labels = _at_least_one(target)
            found = self.proposal_matcher(box_iou(truth, own)) if len(target["labels"]) else _nothing(own)
            of_object, learnt = found >= 0, found != self.proposal_matcher.BETWEEN_THRESHOLDS
            count, numbers = of_object.sum().clamp(min=1), found.clamp(min=0)
            wanted = torch.zeros_like(logits).scatter_(1, labels[numbers, None], of_object[:, None].to(logits.dtype))
            of_classes = sigmoid_focal_loss(logits, wanted, reduction="none")
            classes.append((of_classes * learnt[:, None]).sum() / count)
            moved = torch.where(of_object[:, None], self.box_coder.encode_single(truth[numbers], own), 0.0)
            of_boxes = F.l1_loss(moves, moved, reduction="none")
            boxes.append((of_boxes * of_object[:, None]).sum() / count)
        images = float(len(targets))
        return {"classes": (torch.stack(classes).sum(), images), "boxes": (torch.stack(boxes).sum(), images)}


class _FcosHead(FCOSHead):
    """The losses as sums over all places, with zeros where no object is, and the number of places where one is."""

    def compute_loss(
        self, targets: Any, head_outputs: Outputs, anchors: Sequence[Tensor], matched_idxs: Sequence[Tensor]
    ) -> dict[str, tuple[Tensor, Any]]:
        found, places = torch.stack(list(matched_idxs)), torch.stack(list(anchors))  # [B, places], [B, places, 4]
        pairs = [_at_least_one(target) for target in targets]
        numbers, of_object = found.clamp(min=0), found >= 0
        truth = torch.stack([boxes[own] for (boxes, _), own in zip(pairs, numbers, strict=True)])
        labels = torch.stack([labels[own] for (_, labels), own in zip(pairs, numbers, strict=True)])
        logits = head_outputs["cls_logits"]
        wanted = torch.zeros_like(logits).scatter_(2, labels[..., None], of_object[..., None].to(logits.dtype))
        boxes = self.box_coder.decode(head_outputs["bbox_regression"], places)
        centreness = F.binary_cross_entropy_with_logits(
            head_outputs["bbox_ctrness"].squeeze(dim=2),
            torch.where(of_object, _centreness(self.box_coder.encode(places, truth)), 0.0),
            reduction="none",
        )
        count = of_object.sum().clamp(min=1)
        return {
            "classification": (sigmoid_focal_loss(logits, wanted, reduction="sum"), count),
            "bbox_regression": ((_generalized_iou_loss(boxes, truth) * of_object).sum(), count),
            "bbox_ctrness": ((centreness * of_object).sum(), count),
        }


def _at_least_one(target: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Boxes and labels of a target; where there are none, one that nothing is matched to."""
    boxes, labels = target["boxes"], target["labels"]
    return (boxes, labels) if len(labels) else (boxes.new_zeros(1, 4), labels.new_zeros(1))


def _nothing(anchors: Tensor) -> Tensor:
    """That no anchor is matched, int64 [anchors]."""
    return torch.full((len(anchors),), -1, device=anchors.device)


def _centreness(distances: Tensor) -> Tensor:
    """How near places within boxes are to the centres (arXiv:1904.01355, equation 3). Shape: [..., 4] to [...]."""
    left_right, top_bottom = distances[..., 0::2], distances[..., 1::2]
    across, down = (each.amin(dim=-1) / each.amax(dim=-1) for each in (left_right, top_bottom))
    return torch.sqrt(across * down)


def _generalized_iou_loss(one: Tensor, other: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al., arXiv:1902.09630). Shape: [..., 4] and [..., 4] to [...]."""
    shared = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    outer = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    sides = (one[..., 2:] - one[..., :2], other[..., 2:] - other[..., :2], shared, outer)
    area, other_area, inside, around = (each[..., 0] * each[..., 1] for each in sides)
    union = area + other_area - inside
    return 1 - inside / (union + _TINY) + (around - union) / (around + _TINY)


class Fcos(_Dense, detection.FCOS):
    """The losses `classes`, `boxes` and `centreness`; weight: places of objects in this batch."""

    def __init__(self, backbone: FeaturePyramid, classes: int):
        super().__init__(backbone, classes, head=_FcosHead(CHANNELS, 1, classes))
        self._prepare(backbone)

    def _losses(
        self, targets: Sequence[Mapping[str, Any]], outputs: Outputs, anchors: Sequence[Tensor], counts: Sequence[int]
    ) -> dict[str, tuple[Tensor, Any]]:
        found: dict[str, tuple[Tensor, Any]] = self.compute_loss(targets, outputs, anchors, counts)
        names = {"classification": "classes", "bbox_regression": "boxes", "bbox_ctrness": "centreness"}
        return {names[name]: pair for name, pair in found.items()}


def known_weights(
    name: str, targets: Sequence[Mapping[str, Any]], images: Tensor | Sequence[Tensor], own: Mapping[str, Any]
) -> dict[str, float]:
    """The losses' divisors, as far as the batch determines them: RetinaNet's by the number of images."""
    return dict.fromkeys(("classes", "boxes"), float(len(targets))) if name.startswith("retinanet") else {}


def build(name: str, options: Options) -> RetinaNet | Fcos:
    """RetinaNet or FCOS; `num_classes` counts the background. `norm`, `anchors` as for Faster R-CNN, each in three sizes.

    Raises:
        BadOption: for what the backbone does not take or have, or another number of anchors.
    """
    backbone = feature_pyramid(options, _STRIDES, _CoarseMaps())
    if name.startswith("fcos"):
        return Fcos(backbone, options.num_classes)
    sizes = tuple(tuple(int(side * scale) for scale in _SCALES) for side in anchor_sizes(options, _LEVELS))
    return RetinaNet(backbone, options.num_classes, AnchorGenerator(sizes, (_RATIOS,) * _LEVELS))
