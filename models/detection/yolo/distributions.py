"""YOLOv8: no anchors and no objectness; each side of a box is the mean of a distribution.

It has no paper of its authors: Terven et al., A Comprehensive Review of YOLO, arXiv:2304.00501, section 12. Assignment: Feng et
al., arXiv:2108.07755; distributions: Li et al., arXiv:2006.04388; CIoU: Zheng et al., arXiv:1911.08287.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.models.detection.yolo.boxes import complete_iou, places
from phalanx.models.detection.yolo.detector import LossTerms, Targets, Yolo, objects
from phalanx.models.detection.yolo.heads import BINS, DistributionHead
from phalanx.models.detection.yolo.task_aligned import aligned

STRIDES = (8, 16, 32)
_BOXES, _CLASSES, _DISTANCES = 7.5, 0.5, 1.5  # factors of the losses
_LAST = BINS - 1 - 0.01  # the largest distance that lies between two bins, in strides


class YoloV8(Yolo):
    """YOLOv8.

    Args:
        loss_factor: of all losses. Ultralytics' code multiplies their mean by the number of a step's samples, for which its
            learning rates are meant.
    """

    def __init__(self, body: nn.Module, head: DistributionHead, classes: int, loss_factor: float = 1.0):
        super().__init__(body, head, classes)
        self.head: DistributionHead = head
        self._loss_factor = loss_factor

    def _flat(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of all cells logits of distances [B, cells, 4, BINS] and classes, boxes [B, cells, 4], their centres and strides."""
        centres, strides = places([each.shape[1:3] for each in outputs], STRIDES, outputs[0])
        flat = torch.cat([each.flatten(1, 2) for each in outputs], dim=1)
        bins = flat[..., : 4 * BINS].unflatten(-1, (4, BINS))
        with torch.autocast(bins.device.type, enabled=False):  # whose product would be in half precision
            distances = bins.softmax(dim=-1) @ self.head.projection.to(bins.dtype) * strides[:, None]
        boxes = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1)
        return bins, flat[..., 4 * BINS :], boxes, centres, strides

    def _losses(self, outputs: list[Tensor], targets: Targets, size: tuple[int, int]) -> LossTerms:
        bins, logits, boxes, centres, strides = self._flat(outputs)
        there = objects(targets, logits)
        found, scores = aligned(centres, boxes.detach(), logits.detach().sigmoid(), there)
        learnt, of = (found.images, found.cells), (found.images, found.objects)
        # Added, as the places of an image in which fewer learn repeat a cell, with a score of 0.
        wanted = torch.zeros_like(logits).index_put_((*learnt, there.labels[of]), scores, accumulate=True)
        own, at = there.boxes[of], centres[found.cells]  # [B, k, 4], [B, k, 2]
        of_boxes = ((1 - complete_iou(boxes[learnt], own)) * scores).sum()
        sides = torch.cat([at - own[..., :2], own[..., 2:] - at], dim=-1) / strides[found.cells, None]
        of_distances = (_distribution_loss(bins[learnt], sides).mean(dim=-1) * scores).sum()
        of_classes = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        # Where nothing is sure yet, the places where no object is are learnt all the same.
        weight = scores.sum().clamp(min=1.0)
        return {
            "boxes": (of_boxes * (_BOXES * self._loss_factor), weight),
            "classes": (of_classes * (_CLASSES * self._loss_factor), weight),
            "distances": (of_distances * (_DISTANCES * self._loss_factor), weight),
        }

    def _decoded(self, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        _, logits, boxes, _, _ = self._flat(outputs)
        return boxes, logits.sigmoid()


def _distribution_loss(bins: Tensor, distances: Tensor) -> Tensor:
    """Distribution focal loss: the cross-entropy to the two bins next to a distance (arXiv:2006.04388, equation 6).

    Shape: logits [..., 4, BINS] and distances in strides [..., 4] to [..., 4].
    """
    wanted = distances.clamp(0, _LAST)
    below = wanted.floor()
    share = wanted - below
    logarithms = bins.log_softmax(dim=-1)
    left, right = (logarithms.gather(-1, (below.long() + more).unsqueeze(-1)).squeeze(-1) for more in (0, 1))
    return -(left * (1 - share) + right * share)
