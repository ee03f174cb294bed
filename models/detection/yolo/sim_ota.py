"""X's assignment: each object takes the places that it costs least to learn it at, as many as fit it well.

SimOTA: Ge et al., YOLOX: Exceeding YOLO Series in 2021, arXiv:2107.08430, section 2.1; the optimal transport that it
simplifies: arXiv:2103.14259.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from phalanx.models.detection.yolo.boxes import inside, iou

_RADIUS = 2.5  # strides around an object's centre
_LOCATION_COST = 3.0
_FAR = 1e5  # a cost above all others
_CANDIDATES = 10


@torch.no_grad()
def assigned(
    centres: Tensor, strides: Tensor, boxes: Tensor, objects: Tensor, classes: Tensor, truth: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Which places of an image learn which object.

    Args:
        centres, strides: [cells, 2], [cells].
        boxes, objects, classes: what is predicted: [cells, 4] in pixels, logits [cells] and [cells, classes].
        truth, labels: [n, 4] and [n], at least one.

    Returns:
        The cells, [k]; of each the number of its object, and the IoU of what it predicts.
    """
    middle = (truth[:, :2] + truth[:, 2:]) / 2
    around = torch.cat([middle[:, None] - _RADIUS * strides[:, None], middle[:, None] + _RADIUS * strides[:, None]], dim=-1)
    offsets = torch.cat([centres - around[..., :2], around[..., 2:] - centres], dim=-1)  # [n, cells, 4]
    in_box, in_centre = inside(centres, truth), offsets.amin(dim=-1) > 0
    near = (in_box | in_centre).any(dim=0).nonzero().squeeze(1)
    if not len(near):
        return near, near, strides.new_zeros(0)
    overlap = iou(truth[:, None], boxes[near])  # [n, near]
    probability = (classes[near].sigmoid() * objects[near, None].sigmoid()).sqrt()
    wanted = F.one_hot(labels, classes.shape[1]).to(probability.dtype)
    with torch.autocast(probability.device.type, enabled=False):  # which refuses this function on GPUs
        cost_of_class = F.binary_cross_entropy(
            probability.expand(len(truth), -1, -1), wanted[:, None].expand(-1, len(near), -1), reduction="none"
        ).sum(dim=-1)
    in_both = in_box[:, near] & in_centre[:, near]
    cost = cost_of_class - _LOCATION_COST * (overlap + 1e-8).log() + _FAR * ~in_both
    taken = torch.zeros_like(cost, dtype=torch.bool)
    most = min(_CANDIDATES, len(near))
    counts = overlap.topk(most, dim=1).values.sum(dim=1).int().clamp(min=1)
    order = cost.argsort(dim=1, stable=True)
    for row, count in enumerate(counts.tolist()):
        taken[row, order[row, :count]] = True
    several = taken.sum(dim=0) > 1
    cheapest = cost.argmin(dim=0)
    taken[:, several] = False
    taken[cheapest[several], several] = True
    chosen = taken.any(dim=0)
    numbers = taken[:, chosen].int().argmax(dim=0)
    return near[chosen], numbers, overlap[:, chosen].gather(0, numbers[None]).squeeze(0)
