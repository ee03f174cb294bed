"""YOLOv3 and v5: boxes as offsets of anchors.

Redmon and Farhadi, YOLOv3: An Incremental Improvement, arXiv:1804.02767; v5, which has no paper of its authors: Terven et al.,
A Comprehensive Review of YOLO, arXiv:2304.00501, section 9. v3 here learns as v5 does: objects are matched by shape, boxes
by CIoU (the paper: by IoU with the best anchor, and squared differences).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.models.detection.targets import sent
from phalanx.models.detection.yolo.boxes import complete_iou
from phalanx.models.detection.yolo.detector import LossTerms, Targets, Yolo
from phalanx.models.detection.yolo.heads import AnchorHead
from phalanx.models.detection.yolo.shape_matching import ANCHORS, Anchors, matched

STRIDES = (8, 16, 32)
_SIDE = 640  # of the images for which the factors below are meant, in pixels
_BOXES, _OBJECTS, _CLASSES = 0.15, 1.0, 1.5  # factors of the losses; those of the classes for 80 of them
_BALANCE = (4.0, 1.0, 0.4)  # of the maps in the loss of objects: the coarse ones have fewer cells


class AnchorYolo(Yolo):
    """YOLOv3 or v5.

    Args:
        anchors: for each map, width and height of its anchors in pixels.
    """

    def __init__(self, body: nn.Module, head: AnchorHead, classes: int, anchors: Anchors = ANCHORS):
        super().__init__(body, head, classes)
        self.anchors = anchors
        for conv, stride in zip(head.convs, STRIDES, strict=True):
            with torch.no_grad():
                bias: Tensor = conv.bias.view(head.anchors, -1)  # type: ignore[operator]
                bias[:, 4] += math.log(8 / (_SIDE / stride) ** 2)  # about eight objects an image
                bias[:, 5:] += math.log(0.6 / (classes - 0.99))

    def _box(self, outputs: Tensor, column: Tensor, row: Tensor, anchor: Tensor, stride: int) -> Tensor:
        """Boxes [..., 4] in pixels, from the outputs [..., 5 + classes] of cells. A side is at most four times its anchor's."""
        shares = outputs[..., :4].sigmoid()
        centre = (2 * shares[..., :2] - 0.5 + torch.stack([column, row], dim=-1)) * stride
        half = (2 * shares[..., 2:]).square() * anchor / 2
        return torch.cat([centre - half, centre + half], dim=-1)

    def _losses(self, outputs: list[Tensor], targets: Targets, size: tuple[int, int]) -> LossTerms:
        zero = (
            torch.stack([each.sum() for each in outputs]).sum() * 0.0
        )  # where no object is matched, every parameter is reached all the same
        boxes, of_classes, of_objects, count = zero, zero, zero, 0
        for place, (each, (numbers, shapes, truth)) in enumerate(zip(outputs, self._learnt(targets, outputs), strict=True)):
            image, anchor, row, column, labels = numbers
            picked = each[image, anchor, row, column]  # [n, 5 + classes]
            overlap = complete_iou(self._box(picked, column, row, shapes, STRIDES[place]), truth)
            boxes = boxes + (1 - overlap).sum()
            wanted = F.one_hot(labels, self.classes).to(picked.dtype)
            of_classes = of_classes + F.binary_cross_entropy_with_logits(picked[:, 5:], wanted, reduction="sum") / self.classes
            count += len(labels)
            logits = each[..., 4]
            # Where several objects meet, the one that is found best: which comes last would depend on the device.
            cell = ((image * logits.shape[1] + anchor) * logits.shape[2] + row) * logits.shape[3] + column
            found = logits.new_zeros(logits.numel()).scatter_reduce_(0, cell, overlap.detach().clamp(min=0), "amax")
            mean = F.binary_cross_entropy_with_logits(logits, found.view_as(logits), reduction="none").mean(dim=(1, 2, 3))
            of_objects = of_objects + _BALANCE[place] * mean.sum()
        of_objects = of_objects * (_OBJECTS * size[0] * size[1] / _SIDE**2)
        return {
            "boxes": (boxes * _BOXES, count),
            "objects": (of_objects, len(targets)),
            "classes": (of_classes * (_CLASSES * self.classes / 80), count),
        }

    def _learnt(self, targets: Targets, outputs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each map what learns which object: worked out on the host, which need not wait for the device then.

        Shape: int64 [5, n]: image, anchor, row, column, class; sides of the anchors [n, 2]; boxes of the objects [n, 4].
        """
        device, like = outputs[0].device, torch.empty(0, dtype=outputs[0].dtype)
        boxes, labels, images = _in_a_row(targets, like)
        numbers, values = [], []
        for of_map, each, stride in zip(self.anchors, outputs, STRIDES, strict=True):
            found = matched(boxes, images, of_map, (each.shape[2], each.shape[3]), stride)
            numbers.append(torch.stack([found.image, found.anchor, found.row, found.column, labels[found.objects]]))
            values.append(torch.cat([boxes.new_tensor(of_map)[found.anchor], boxes[found.objects]], dim=1))
        counts = [len(each) for each in values]
        all_values = sent(torch.cat(values), device)
        return list(
            zip(
                sent(torch.cat(numbers, dim=1), device).split(counts, dim=1),
                all_values[:, :2].split(counts),
                all_values[:, 2:].split(counts),
                strict=True,
            )
        )

    def _decoded(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        boxes, scores = [], []
        for place, each in enumerate(outputs):
            batch, _, height, width, numbers = each.shape
            row = torch.arange(height, device=each.device).view(-1, 1).expand(height, width)
            column = torch.arange(width, device=each.device).expand(height, width)
            shapes = sent(torch.tensor(self.anchors[place], dtype=each.dtype), each.device).view(-1, 1, 1, 2)
            boxes.append(self._box(each, column, row, shapes, STRIDES[place]).reshape(batch, -1, 4))
            sure = each[..., 4:].sigmoid()
            scores.append((sure[..., :1] * sure[..., 1:]).reshape(batch, -1, numbers - 5))
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)


def _in_a_row(targets: Targets, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The objects of all images: boxes [n, 4] in the format of `like`, classes int64 [n], images int64 [n]."""
    boxes = torch.cat([target["boxes"].reshape(-1, 4) for target in targets]).to(like.dtype)
    labels = torch.cat([target["labels"] for target in targets])
    counts = torch.tensor([len(target["boxes"]) for target in targets])
    return boxes, labels, torch.repeat_interleave(counts).to(boxes.device)


def known_weights(targets: Targets, size: tuple[int, int], anchors: Anchors = ANCHORS) -> dict[str, float]:
    """The weights of the losses, which depend on targets alone.

    Args:
        size: height and width of the batch of images, padded to a multiple of 32.
    """
    (boxes, _, images), count = _in_a_row(targets, torch.zeros(())), 0
    for of_map, stride in zip(anchors, STRIDES, strict=True):
        count += len(matched(boxes, images, of_map, (size[0] // stride, size[1] // stride), stride).objects)
    return {"boxes": float(count), "objects": float(len(targets)), "classes": float(count)}
