"""v8's assignment: places whose class and box are both near to an object's learn it.

Task-aligned assignment: Feng et al., TOOD, arXiv:2108.07755, section 3.2.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from phalanx.models.detection.yolo.boxes import complete_iou, inside

_CANDIDATES = 10
_ALPHA, _BETA = 0.5, 6.0  # exponents of the class's score and of the IoU


class Aligned(NamedTuple):
    """Of one image.

    Attributes:
        cells: int64 [k], those that learn an object.
        objects: int64 [k], which.
        scores: [k], how sure each is to be of its class: 1 at most, for the best of an object its IoU.
    """

    cells: Tensor
    objects: Tensor
    scores: Tensor


@torch.no_grad()
def aligned(centres: Tensor, boxes: Tensor, scores: Tensor, truth: Tensor, labels: Tensor) -> Aligned:
    """Which places of an image learn which object.

    Args:
        centres: [cells, 2].
        boxes, scores: what is predicted: [cells, 4] in pixels, and [cells, classes] from 0 to 1.
        truth, labels: [n, 4] and [n], at least one.
    """
    within = inside(centres, truth)  # [n, cells]
    pairs = len(truth), len(centres)
    overlap = complete_iou(boxes.expand(*pairs, 4), truth[:, None].expand(*pairs, 4)).clamp(min=0) * within
    alignment = scores[:, labels].t().pow(_ALPHA) * overlap.pow(_BETA) * within
    best = alignment.topk(min(_CANDIDATES, len(centres)), dim=1).indices
    taken = torch.zeros_like(within).scatter_(1, best, True) & within
    several = taken.sum(dim=0) > 1
    nearest = overlap.argmax(dim=0)
    taken[:, several] = False
    taken[nearest[several], several] = True
    cells = taken.any(dim=0).nonzero().squeeze(1)
    objects = taken[:, cells].int().argmax(dim=0)
    own = torch.where(taken, alignment, 0.0)
    largest, best_overlap = own.amax(dim=1), torch.where(taken, overlap, 0.0).amax(dim=1)
    share = own[objects, cells] * best_overlap[objects] / (largest[objects] + 1e-9)
    return Aligned(cells, objects, share)
