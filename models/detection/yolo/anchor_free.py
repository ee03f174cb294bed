"""YOLOX: no anchors; each cell predicts one box, and objects choose the cells that learn them.

Ge et al., YOLOX: Exceeding YOLO Series in 2021, arXiv:2107.08430.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from phalanx.models.detection.yolo.boxes import iou, places
from phalanx.models.detection.yolo.detector import LossTerms, Objects, Yolo
from phalanx.models.detection.yolo.sim_ota import assigned

STRIDES = (8, 16, 32)
_BOXES = 5.0  # factor of the loss of boxes
_LARGEST_LOGARITHM = 15.0  # of a side in strides: what is larger has no exponential in float32 that a loss could use


class YoloX(Yolo):
    """YOLOX, without the L1 loss of its last epochs."""

    def _flat(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The predictions of all cells [B, cells, 5 + classes], their boxes [B, cells, 4], their centres and strides."""
        centres, strides = places([each.shape[1:3] for each in outputs], STRIDES, outputs[0])
        flat = torch.cat([each.flatten(1, 2) for each in outputs], dim=1)
        middle = flat[..., :2] * strides[:, None] + centres - strides[:, None] / 2
        half = flat[..., 2:4].clamp(max=_LARGEST_LOGARITHM).exp() * strides[:, None] / 2
        return flat, torch.cat([middle - half, middle + half], dim=-1), centres, strides

    def _losses(self, outputs: list[Tensor], there: Objects, size: tuple[int, int]) -> LossTerms:
        flat, boxes, centres, strides = self._flat(outputs)
        zero = flat.sum() * 0.0
        of_boxes, of_classes, found, count = zero, zero, torch.zeros_like(flat[..., 4]), 0
        split = zip(there.boxes.split(there.counts), there.labels.split(there.counts), strict=True)
        for image, (truth, labels) in enumerate(split):
            if not len(truth):
                continue
            one = flat[image].detach()
            cells, numbers, overlap = assigned(centres, strides, boxes[image].detach(), one[:, 4], one[:, 5:], truth, labels)
            of_boxes = of_boxes + (1 - iou(boxes[image, cells], truth[numbers]).square()).sum()
            wanted = F.one_hot(labels[numbers], self.classes) * overlap[:, None]
            of_classes = of_classes + F.binary_cross_entropy_with_logits(flat[image, cells, 5:], wanted, reduction="sum")
            found[image, cells] = 1.0
            count += len(cells)
        of_objects = F.binary_cross_entropy_with_logits(flat[..., 4], found, reduction="sum")
        # Without any object the places where none is are learnt all the same.
        weight = max(1, count)
        return {"boxes": (of_boxes * _BOXES, weight), "objects": (of_objects, weight), "classes": (of_classes, weight)}

    def _decoded(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        flat, boxes, _, _ = self._flat(outputs)
        sure = flat[..., 4:].sigmoid()
        return boxes, sure[..., :1] * sure[..., 1:]
