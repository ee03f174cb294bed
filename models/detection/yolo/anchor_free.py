"""YOLOX: no anchors; each cell predicts one box, and objects choose the cells that learn them.

Ge et al., YOLOX: Exceeding YOLO Series in 2021, arXiv:2107.08430.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.models.detection.targets import sent
from phalanx.models.detection.yolo.boxes import iou, places
from phalanx.models.detection.yolo.detector import LossTerms, Targets, Yolo, objects
from phalanx.models.detection.yolo.sim_ota import assigned

STRIDES = (8, 16, 32)
_BOXES = 5.0  # factor of the loss of boxes
_LARGEST_LOGARITHM = 15.0  # of a side in strides: what is larger has no exponential in float32 that a loss could use


def _far(given: Tensor, boxes: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
    """Sums of the distances between a cell's four numbers and those that would give its object's box.

    Args:
        given: [B, k, 4]: the centre from the cell's corner in strides, the logarithms of width and height in strides.
        boxes, centres, strides: [B, k, 4], [B, k, 2], [B, k].

    Returns:
        [B, k].
    """
    stride = strides[..., None]
    corner = centres - stride / 2
    middle, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    wanted = torch.cat([(middle - corner) / stride, (sides / stride).clamp(min=1e-8).log()], dim=-1)
    return (given - wanted).abs().sum(dim=-1)


class YoloX(Yolo):
    """YOLOX.

    Args:
        l1_from_epoch: the epoch, counted from 0, from which images have an L1 loss of boxes too, as in the last 15 epochs of
            the paper, whose images are no mosaics any more; None: never.
    """

    def __init__(self, body: nn.Module, head: nn.Module, classes: int, l1_from_epoch: int | None = None):
        super().__init__(body, head, classes)
        self._l1_from_epoch = l1_from_epoch

    def _flat(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The predictions of all cells [B, cells, 5 + classes], their boxes [B, cells, 4], their centres and strides."""
        centres, strides = places([each.shape[1:3] for each in outputs], STRIDES, outputs[0])
        flat = torch.cat([each.flatten(1, 2) for each in outputs], dim=1)
        middle = flat[..., :2] * strides[:, None] + centres - strides[:, None] / 2
        half = flat[..., 2:4].clamp(max=_LARGEST_LOGARITHM).exp() * strides[:, None] / 2
        return flat, torch.cat([middle - half, middle + half], dim=-1), centres, strides

    def _losses(self, outputs: list[Tensor], targets: Targets, size: tuple[int, int]) -> LossTerms:
        flat, boxes, centres, strides = self._flat(outputs)
        there, fixed = objects(targets, flat), flat.detach()
        found, overlap = assigned(centres, strides, boxes.detach(), fixed[..., 4], fixed[..., 5:], there)
        learnt, of, counts = (found.images, found.cells), (found.images, found.objects), found.there
        of_boxes = ((1 - iou(boxes[learnt], there.boxes[of]).square()) * counts).sum()
        wanted = F.one_hot(there.labels[of], self.classes) * overlap[..., None]
        of_classes = F.binary_cross_entropy_with_logits(flat[learnt][..., 5:], wanted, reduction="none").sum(dim=-1) * counts
        is_object = torch.zeros_like(flat[..., 4]).index_put_(learnt, counts.to(flat.dtype), accumulate=True)
        of_objects = F.binary_cross_entropy_with_logits(flat[..., 4], is_object, reduction="sum")
        # Without any object the places where none is are learnt all the same.
        weight = counts.sum().clamp(min=1)
        losses: LossTerms = {
            "boxes": (of_boxes * _BOXES, weight),
            "objects": (of_objects, weight),
            "classes": (of_classes.sum(), weight),
        }
        if self._l1_from_epoch is not None:
            late = torch.tensor([[float(target["epoch"] >= self._l1_from_epoch)] for target in targets], dtype=flat.dtype)
            far = _far(flat[learnt][..., :4], there.boxes[of], centres[found.cells], strides[found.cells])
            losses["l1"] = ((far * counts * sent(late, far.device)).sum(), weight)
        return losses

    def _decoded(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        flat, boxes, _, _ = self._flat(outputs)
        sure = flat[..., 4:].sigmoid()
        return boxes, sure[..., :1] * sure[..., 1:]
