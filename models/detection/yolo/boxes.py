"""How far two boxes agree, and where the places of the maps lie. Boxes are left, top, right, bottom in pixels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_TINY = 1e-7


def places(sizes: Sequence[Sequence[int]], strides: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the cells of all maps in pixels, row by row, [cells, 2] (x, y), and their strides, [cells]."""
    centres, of = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        y, x = torch.meshgrid(
            torch.arange(height, device=like.device, dtype=like.dtype),
            torch.arange(width, device=like.device, dtype=like.dtype),
            indexing="ij",
        )
        centres.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride)
        of.append(like.new_full((height * width,), float(stride)))
    return torch.cat(centres), torch.cat(of)


def _overlap(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Area that two boxes share, and that of both together. Shape: [..., 4] and [..., 4] to [...], broadcast."""
    shared = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    inside = shared[..., 0] * shared[..., 1]
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (one, other)]
    return inside, areas[0] + areas[1] - inside


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union. Shape: [..., 4] and [..., 4], broadcast, to [...]."""
    inside, together = _overlap(one, other)
    return inside / (together + _TINY)


def complete_iou(one: Tensor, other: Tensor) -> Tensor:
    """CIoU: less where centres are apart and where aspects differ (Zheng et al., arXiv:1911.08287, equations 7 to 12).

    As there, the weight of the aspects' difference is a constant for gradients.

    Shape: [..., 4] and [..., 4], broadcast, to [...].
    """
    overlap = iou(one, other)
    outer = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    apart = ((one[..., :2] + one[..., 2:] - other[..., :2] - other[..., 2:]) / 2).square().sum(-1)
    (width, height), (other_width, other_height) = ((box[..., 2:] - box[..., :2]).unbind(-1) for box in (one, other))
    angle = torch.atan(other_width / (other_height + _TINY)) - torch.atan(width / (height + _TINY))
    aspects = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = aspects / (1 - overlap + aspects + _TINY)
    return overlap - apart / (outer.square().sum(-1) + _TINY) - weight * aspects


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether points lie within boxes, not on their edges. Shape: [p, 2] and [..., 4] to bool [..., p]."""
    sides = torch.cat([points - boxes[..., None, :2], boxes[..., None, 2:] - points], dim=-1)
    return sides.amin(dim=-1) > 1e-9
