"""Where the four images of a mosaic meet, and how the canvas with them is scaled, rotated, sheared, moved and cropped.

YOLOv5 and YOLOX fit each image to the network's size s, put four around a point of a canvas of twice that size, scale, rotate
and shear the canvas about its centre, move it by a share of s, and crop s x s from its middle (Ge et al., arXiv:2107.08430,
section 2.1, by their code's settings).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from phalanx.configs.sections.data import AugmentConfig
from phalanx.data.transforms.fit import Fill, Size

_NEAR = (0.25, 0.75)  # without `mosaic_shift`, where the point is in the result, as shares of height and width
_OF_CANVAS = (-0.5, 0.5)  # with it, where the point is on the canvas: from its centre, as shares of the network's size


class Canvas(NamedTuple):
    """One mosaic's geometry, in pixels of the frame: the result with as much around it as its rotation brings into it.

    Attributes:
        size: height and width of the result.
        margin: rows above and below it, columns left and right of it, that are made too.
        factor: how large images are; at 1, an image fits the full result.
        centre: row and column where the four images meet.
        middle: row and column of the canvas's middle.
        bounds: the canvas's first row and column, and those after its last, within the frame.
        visible, longest: the least share of its area that a box keeps, and its largest ratio of sides.
        angle, shear: degrees of the rotation, and of the shear along both axes.
    """

    size: Size
    margin: Size
    factor: float
    centre: tuple[int, int]
    middle: tuple[int, int]
    bounds: tuple[int, int, int, int]
    visible: float = 0.1
    longest: float | None = None
    angle: float = 0.0
    shear: tuple[float, float] = (0.0, 0.0)

    @property
    def frame(self) -> Size:
        return self.size[0] + 2 * self.margin[0], self.size[1] + 2 * self.margin[1]

    @property
    def turned(self) -> bool:
        return bool(self.angle or any(self.shear))

    def fitted(self, size: Sequence[int]) -> Size:
        """Height and width of an image on the canvas."""
        ratio = self.factor * min(self.size[0] / size[0], self.size[1] / size[1])
        return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))

    def seen(self, ground: Tensor, fill: Fill) -> Tensor:
        """The result's part of an image or of masks, turned. Shape: [..., *frame] to [..., *size]."""
        if self.turned and ground.numel():
            how = InterpolationMode.NEAREST if isinstance(ground, tv_tensors.Mask) else InterpolationMode.BILINEAR
            filled = fill.of(ground)
            ground = F.affine(ground, self.angle, [0, 0], 1.0, list(self.shear), interpolation=how, fill=filled)
        (top, left), (height, width) = self.margin, self.size
        return ground[..., top : top + height, left : left + width].as_subclass(Tensor)

    def moved(self, boxes: Tensor) -> Tensor:
        """Boxes of the frame, in the result: those around their turned corners. Shape: [n, 4]."""
        if self.turned:
            free = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=self.frame, clamping_mode=None)
            boxes = F.affine(free, self.angle, [0, 0], 1.0, list(self.shear)).as_subclass(Tensor)
        return boxes - boxes.new_tensor([self.margin[1], self.margin[0]] * 2)


def draw_canvas(size: Size, augment: AugmentConfig) -> Canvas:
    """A mosaic's geometry by random numbers of torch's global generator."""
    factor = _drawn(*augment.mosaic_scale)
    if augment.mosaic_shift is None:
        point, middle = [_drawn(*_NEAR), _drawn(*_NEAR)], [0.5, 0.5]
    else:
        middle = [0.5 + _drawn(-augment.mosaic_shift, augment.mosaic_shift) for _ in size]
        point = [share + factor * _drawn(*_OF_CANVAS) for share in middle]
    angle = _drawn(-augment.mosaic_rotate, augment.mosaic_rotate) if augment.mosaic_rotate else 0.0
    sheared = augment.mosaic_shear
    shear = (_drawn(-sheared, sheared), _drawn(-sheared, sheared)) if sheared else (0.0, 0.0)
    margin = _margin(size, angle, shear)
    frame = size[0] + 2 * margin[0], size[1] + 2 * margin[1]
    bounds = (0, 0, *frame) if augment.mosaic_shift is None else _bounds(size, margin, frame, factor, middle)
    kept = augment.mosaic_visible, augment.mosaic_longest
    return Canvas(size, margin, factor, _at(point, size, margin), _at(middle, size, margin), bounds, *kept, angle, shear)


def draw_single(size: Size, augment: AugmentConfig, scale: tuple[float, float]) -> Canvas:
    """The geometry of one image of a random scale: a random part of it, or all of it in the upper left corner."""
    factor = _drawn(*scale)
    over = [max(0, round(side * factor) - side) for side in size]
    top, left = (-int(torch.randint(most + 1, ())) for most in over)
    kept = augment.mosaic_visible, augment.mosaic_longest
    return Canvas(size, (0, 0), factor, (top, left), (0, 0), (0, 0, *size), *kept)


def _at(shares: Sequence[float], size: Size, margin: Size) -> tuple[int, int]:
    """A row and a column of the frame, of shares of the result's height and width."""
    return round(shares[0] * size[0]) + margin[0], round(shares[1] * size[1]) + margin[1]


def _drawn(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))


def _bounds(size: Size, margin: Size, frame: Size, factor: float, middle: Sequence[float]) -> tuple[int, int, int, int]:
    """The canvas reaches as far as `factor` times the size from its middle, to each side."""
    first = [max(0, round((middle[axis] - factor) * size[axis]) + margin[axis]) for axis in (0, 1)]
    last = [min(frame[axis], round((middle[axis] + factor) * size[axis]) + margin[axis]) for axis in (0, 1)]
    return first[0], first[1], last[0], last[1]


def _margin(size: Size, angle: float, shear: tuple[float, float]) -> Size:
    """How far beyond the result lies what a rotation and a shear about its centre bring into it."""
    if not angle and not any(shear):
        return 0, 0
    turn, (along_x, along_y) = math.radians(angle), (math.radians(degrees) for degrees in shear)
    # torchvision's matrix: rotation times shear; its inverse finds where a corner of the result comes from.
    a = math.cos(turn - along_y) / math.cos(along_y)
    b = -math.cos(turn - along_y) * math.tan(along_x) / math.cos(along_y) - math.sin(turn)
    c = math.sin(turn - along_y) / math.cos(along_y)
    d = -math.sin(turn - along_y) * math.tan(along_x) / math.cos(along_y) + math.cos(turn)
    determinant, height, width = a * d - b * c, size[0] / 2, size[1] / 2
    reach_x = (abs(d) * width + abs(b) * height) / abs(determinant)
    reach_y = (abs(c) * width + abs(a) * height) / abs(determinant)
    return max(0, math.ceil(reach_y - height)) + 1, max(0, math.ceil(reach_x - width)) + 1
