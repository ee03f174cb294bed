"""v3's and v5's assignment: an object belongs to the anchors whose shape is near to its own, in its cell and two neighbours.

Terven et al., arXiv:2304.00501, section 9. The anchors are those of Redmon and Farhadi, arXiv:1804.02767, section 2.3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phalanx.models.detection.yolo import table

Anchors = Sequence[Sequence[Sequence[float]]]  # of each map, width and height of each anchor, in pixels


def in_maps(flat: Sequence[float]) -> Anchors:
    """Width and height of nine anchors one after another, as three of each map, the finest first."""
    pairs = [tuple(flat[place : place + 2]) for place in range(0, len(flat), 2)]
    return tuple(tuple(pairs[place : place + 3]) for place in range(0, len(pairs), 3))


ANCHORS = in_maps(table.ANCHORS)
_LARGEST_RATIO = 4.0  # of an object's side to an anchor's, or the other way round
_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1))  # x, y: left, above, right, below


class Matches(NamedTuple):
    """Of one map. An object may be matched several times.

    Attributes:
        image, anchor, row, column: int64 [n], places in `AnchorHead`'s output.
        objects: int64 [n], numbers of the objects, all images' one after another.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    objects: Tensor


def matched(boxes: Tensor, images: Tensor, anchors: Sequence[Sequence[float]], size: tuple[int, int], stride: int) -> Matches:
    """Which anchors of a map learn which objects.

    Args:
        boxes: [n, 4] in pixels, of all images.
        images: int64 [n], the image of each.
        anchors: width and height of each anchor of this map, in pixels.
        size: height and width of the map.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    ratios = sides[:, None] / sides.new_tensor(anchors)  # [n, anchors, 2]
    near = torch.maximum(ratios, 1 / ratios).amax(dim=-1) < _LARGEST_RATIO
    objects, anchor = near.nonzero(as_tuple=True)
    centre = (boxes[objects, :2] + boxes[objects, 2:]) / 2 / stride  # in cells
    cell, (height, width) = centre.floor().long(), size
    cell = torch.stack([cell[:, 0].clamp(0, width - 1), cell[:, 1].clamp(0, height - 1)], dim=1)
    part = centre - cell
    found = [(objects, anchor, cell)]
    for x, y in _NEIGHBOURS:
        along = part[:, 0] if x else part[:, 1]
        beside = cell + cell.new_tensor([x, y])
        there = (beside >= 0).all(dim=1) & (beside[:, 0] < width) & (beside[:, 1] < height)
        chosen = (along < 0.5 if x + y < 0 else along > 0.5) & there
        found.append((objects[chosen], anchor[chosen], beside[chosen]))
    objects, anchor, cell = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Matches(images[objects], anchor, cell[:, 1], cell[:, 0], objects)
