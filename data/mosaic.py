"""Mosaic: four images around a point, as one (Bochkovskiy et al., YOLOv4, arXiv:2004.10934, section 3.3).

YOLOv5 and its followers make a canvas of twice the size, scale and move it at random, and cut it to size. Without rotation and
shear, which they leave off, that is the same as to scale the images and to paste them around a random point at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from phalanx.data.fit import Fill, resize

PARTS = 4
_CENTRE = (0.25, 0.75)  # where the point may lie, as shares of height and width
_VISIBLE = 0.1  # a box that keeps less of its area is left out
_SMALLEST = 2.0  # a box with a shorter side, in pixels, too

Sample = dict[str, Any]


def mosaic(parts: Sequence[Mapping[str, Any]], size: tuple[int, int], scale: tuple[float, float], fill: Fill) -> Sample:
    """Four samples as one; the random numbers are from torch's global generator.

    Args:
        parts: `image` [C, h, w] of any sizes and one type, `boxes` [n, 4], `labels` [n], maybe `masks` [n, h, w].
        size: height and width of the result.
        scale: factors to choose from; at 1, an image fits the whole of the result.
        fill: what lies between the images.

    Returns:
        `image` [C, *size], `boxes` [N, 4], `labels` [N], and `masks` [N, *size] where all parts have them.
    """
    height, width = size
    factor, row, column = (float(torch.empty(()).uniform_(*limits)) for limits in (scale, _CENTRE, _CENTRE))
    centre_y, centre_x = round(row * height), round(column * width)
    first = parts[0]["image"]
    canvas = _ground(first, size, fill)
    boxes, labels, masks = [], [], []
    for place, part in enumerate(parts):
        image = part["image"]
        ratio = factor * min(height / image.shape[-2], width / image.shape[-1])
        new = max(1, round(image.shape[-2] * ratio)), max(1, round(image.shape[-1] * ratio))
        top = centre_y - new[0] if place < 2 else centre_y
        left = centre_x - new[1] if place % 2 == 0 else centre_x
        _paste(canvas, resize(tv_tensors.Image(image), new).as_subclass(Tensor), top, left)
        stretch = part["boxes"].new_tensor([new[1] / image.shape[-1], new[0] / image.shape[-2]] * 2)
        moved = part["boxes"] * stretch + part["boxes"].new_tensor([left, top, left, top])
        kept, clipped = _kept(moved, size)
        boxes.append(clipped[kept])
        labels.append(part["labels"][kept])
        if "masks" in part:
            ground = torch.zeros(int(kept.sum()), height, width, dtype=torch.bool)
            _paste(ground, resize(tv_tensors.Mask(part["masks"][kept]), new).as_subclass(Tensor), top, left)
            masks.append(ground)
    found = {"image": canvas, "boxes": torch.cat(boxes), "labels": torch.cat(labels)}
    return found | ({"masks": torch.cat(masks)} if len(masks) == len(parts) else {})


def _ground(image: Tensor, size: tuple[int, int], fill: Fill) -> Tensor:
    colour = torch.tensor(fill.of(image), dtype=image.dtype).view(-1, 1, 1)
    return colour.expand(image.shape[0], *size).clone()


def _paste(canvas: Tensor, image: Tensor, top: int, left: int) -> None:
    """What of an image lies within the canvas, into it. Shape: [..., H, W] and [..., h, w]."""
    height, width = canvas.shape[-2:]
    bottom, right = min(height, top + image.shape[-2]), min(width, left + image.shape[-1])
    to_top, to_left = max(0, top), max(0, left)
    if to_top < bottom and to_left < right:
        canvas[..., to_top:bottom, to_left:right] = image[..., to_top - top : bottom - top, to_left - left : right - left]


def _kept(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which boxes are still there to be seen, and all of them within the canvas."""
    height, width = size
    clipped = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    sides, before = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    share = sides.prod(dim=1) / before.prod(dim=1).clamp(min=1e-9)
    return (sides.amin(dim=1) >= _SMALLEST) & (share >= _VISIBLE), clipped
