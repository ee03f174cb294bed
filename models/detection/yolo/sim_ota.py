"""X's assignment: each object takes the places that it costs least to learn it at, as many as fit it well.

SimOTA: Ge et al., YOLOX: Exceeding YOLO Series in 2021, arXiv:2107.08430, section 2.1; the optimal transport that it
simplifies: arXiv:2103.14259.
"""

import torch
from torch import Tensor

from phalanx.models.detection.yolo.assignment import Assigned, listed, one_each
from phalanx.models.detection.yolo.boxes import inside, iou
from phalanx.models.detection.yolo.detector import Objects

_RADIUS = 2.5  # strides around an object's centre
_LOCATION_COST = 3.0
_FAR = 1e5  # a cost above all others
_CANDIDATES = 10  # cells that an object takes at most


@torch.no_grad()
def assigned(
    centres: Tensor, strides: Tensor, boxes: Tensor, sure: Tensor, classes: Tensor, objects: Objects
) -> tuple[Assigned, Tensor]:
    """Which places of each image learn which object.

    Args:
        centres, strides: [cells, 2], [cells].
        boxes, sure, classes: what is predicted: [B, cells, 4] in pixels, logits [B, cells] of an object being there and
            [B, cells, classes].

    Returns:
        The places, and of each the IoU of what it predicts with its object, [B, k].
    """
    images = torch.arange(len(boxes), device=boxes.device)[:, None]
    in_box, in_centre = inside(centres, objects.boxes), _around(centres, strides, objects.boxes)  # [B, n, cells]
    near = ((in_box | in_centre) & objects.there[..., None]).any(dim=1, keepdim=True) & objects.there[..., None]
    overlap = iou(objects.boxes[:, :, None], boxes[:, None]) * near
    cost = (
        _cost_of_class(sure, classes, objects.labels) - _LOCATION_COST * (overlap + 1e-8).log() + _FAR * ~(in_box & in_centre)
    )
    cost = torch.where(near, cost, torch.inf)
    most = min(_CANDIDATES, len(centres))
    counts = overlap.topk(most, dim=2).values.sum(dim=2).int().clamp(min=1)  # [B, n]
    taken, left = torch.zeros_like(near), cost.clone()
    for place in range(most):  # of equal costs the first, on every device: topk promises no order
        cheapest = left.argmin(dim=2, keepdim=True)
        taken.scatter_(2, cheapest, taken.gather(2, cheapest) | (place < counts[..., None]))
        left.scatter_(2, cheapest, torch.inf)
    taken = one_each(taken & near, -cost)
    found = listed(taken, most * taken.shape[1])
    return found, overlap[images, found.objects, found.cells]


def _around(centres: Tensor, strides: Tensor, boxes: Tensor) -> Tensor:
    """Whether places are near to the centres of boxes. Shape: [cells, 2], [cells] and [..., 4] to bool [..., cells]."""
    middle = ((boxes[..., :2] + boxes[..., 2:]) / 2)[..., None, :]
    reach = _RADIUS * strides[:, None]
    sides = torch.cat([centres - (middle - reach), middle + reach - centres], dim=-1)
    return sides.amin(dim=-1) > 0


def _cost_of_class(sure: Tensor, classes: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy between the probabilities of a place and the class of an object, [B, n, cells].

    As sums over the classes that are the same for all objects, of which only the object's own class is exchanged: never
    [B, n, cells, classes].
    """
    probability = (classes.sigmoid() * sure[..., None].sigmoid()).sqrt()
    absent, present = -torch.log1p(-probability).clamp(min=-100), -probability.log().clamp(min=-100)
    images = torch.arange(len(labels), device=labels.device)[:, None]
    return absent.sum(dim=-1)[:, None] + (present - absent)[images, :, labels]
