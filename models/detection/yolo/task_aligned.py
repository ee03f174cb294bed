"""v8's assignment: places whose class and box are both near to an object's learn it.

Task-aligned assignment: Feng et al., TOOD, arXiv:2108.07755, section 3.2.
"""

import torch
from torch import Tensor

from phalanx.models.detection.yolo.assignment import Assigned, listed, one_each
from phalanx.models.detection.yolo.boxes import complete_iou, inside
from phalanx.models.detection.yolo.detector import Objects

_CANDIDATES = 10  # cells that an object takes at most
_ALPHA, _BETA = 0.5, 6.0  # exponents of the class's score and of the IoU


@torch.no_grad()
def aligned(centres: Tensor, boxes: Tensor, scores: Tensor, objects: Objects) -> tuple[Assigned, Tensor]:
    """Which places of each image learn which object.

    Args:
        centres: [cells, 2].
        boxes, scores: what is predicted: [B, cells, 4] in pixels, and [B, cells, classes] from 0 to 1.

    Returns:
        The places, and how sure each is to be of its class, [B, k]: 1 at most, for the best of an object its IoU.
    """
    images = torch.arange(len(boxes), device=boxes.device)[:, None]
    within = inside(centres, objects.boxes) & objects.there[..., None]  # [B, n, cells]
    overlap = complete_iou(boxes[:, None], objects.boxes[:, :, None]).clamp(min=0) * within
    alignment = scores[images, :, objects.labels].pow(_ALPHA) * overlap.pow(_BETA) * within
    best = alignment.topk(min(_CANDIDATES, len(centres)), dim=2).indices
    taken = one_each(torch.zeros_like(within).scatter_(2, best, True) & within, overlap)
    found = listed(taken, _CANDIDATES * taken.shape[1])
    own = torch.where(taken, alignment, 0.0)
    largest, best_overlap = own.amax(dim=2), torch.where(taken, overlap, 0.0).amax(dim=2)  # [B, n]
    of = images, found.objects
    return found, own[*of, found.cells] * best_overlap[of] / (largest[of] + 1e-9) * found.there
