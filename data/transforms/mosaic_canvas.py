"""A mosaic's canvas of twice the size, which is scaled, rotated, sheared, moved and cropped in one step.

YOLOv5, YOLOv8 and YOLOX fit each image to the network's size, put four around a point of a canvas of twice that size, and warp
the canvas: scaled and rotated about its centre, then sheared, then moved (Ge et al., arXiv:2107.08430, section 2.1, by their
code's settings). The warp interpolates bilinearly without antialiasing, as theirs does.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from phalanx.configs.sections.data import AugmentConfig
from phalanx.data.transforms.fit import Fill, Size


class Warp(NamedTuple):
    """A map from a canvas to the result.

    Attributes:
        size: height and width of the result.
        canvas: those of the canvas.
        matrix: of a column and a row, counted from the canvas's centre: [[xx, xy], [yx, yy]] in that order.
        centre: row and column of the result where the canvas's centre comes to lie.
        scale: factor of lengths, before the shear.
    """

    size: Size
    canvas: Size
    matrix: tuple[float, float, float, float]
    centre: tuple[float, float]
    scale: float

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes of the canvas, in the result and not clipped: those around their warped corners. Shape: [n, 4]."""
        x, y = boxes[:, [0, 2, 0, 2]] - self.canvas[1] / 2, boxes[:, [1, 1, 3, 3]] - self.canvas[0] / 2
        xx, xy, yx, yy = self.matrix
        columns, rows = x * xx + y * xy + self.centre[1], x * yx + y * yy + self.centre[0]
        return torch.stack([columns.amin(dim=1), rows.amin(dim=1), columns.amax(dim=1), rows.amax(dim=1)], dim=1)

    def image(self, ground: Tensor, fill: Fill) -> Tensor:
        """The result's image, with the fill outside of the canvas. Shape: [C, *canvas] to [C, *size]."""
        colour = torch.tensor(fill.of(ground), dtype=torch.float32).view(-1, 1, 1)
        (left, top), (right, bottom) = self._seen()
        channels, (height, width) = ground.shape[0], self.size
        if left >= right or top >= bottom:
            return colour.to(ground.dtype).expand(channels, height, width).clone()
        # What is outside counts as zero: the difference from the fill.
        part = ground[:, top:bottom, left:right].float().sub_(colour)
        grid = F.affine_grid(self._grid((left, top), (right, bottom)), [1, channels, height, width], align_corners=False)
        seen = F.grid_sample(part[None], grid, align_corners=False)[0].add_(colour)
        if ground.is_floating_point():
            return seen.to(ground.dtype)
        return seen.round_().clamp_(0, torch.iinfo(ground.dtype).max).to(ground.dtype)

    def masks(self, layers: Tensor) -> Tensor:
        """The result's masks, each by the nearest pixel. Shape: [n, *canvas] to [n, *size]."""
        rows, columns = (each.floor().long() for each in self._sources())
        height, width = self.canvas
        there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return layers[:, rows.clamp(0, height - 1), columns.clamp(0, width - 1)] & there

    def _sources(self) -> tuple[Tensor, Tensor]:
        """Row and column on the canvas of the centre of each of the result's pixels. Shape: each [*size]."""
        (xx, xy, yx, yy), (column, row) = self._inverse(), self._from(0.0, 0.0)
        x, y = torch.arange(self.size[1]) + 0.5, torch.arange(self.size[0])[:, None] + 0.5
        return yx * x + yy * y + row, xx * x + xy * y + column

    def _inverse(self) -> tuple[float, float, float, float]:
        xx, xy, yx, yy = self.matrix
        determinant = xx * yy - xy * yx
        return yy / determinant, -xy / determinant, -yx / determinant, xx / determinant

    def _from(self, x: float, y: float) -> tuple[float, float]:
        """Column and row on the canvas of a place in the result."""
        xx, xy, yx, yy = self._inverse()
        x, y = x - self.centre[1], y - self.centre[0]
        return xx * x + xy * y + self.canvas[1] / 2, yx * x + yy * y + self.canvas[0] / 2

    def _seen(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The first column and row of the canvas that the result may show, and those after the last."""
        corners = [self._from(x, y) for x in (0.0, self.size[1]) for y in (0.0, self.size[0])]
        columns, rows = zip(*corners, strict=True)
        first = max(0, math.floor(min(columns)) - 1), max(0, math.floor(min(rows)) - 1)
        return first, (min(self.canvas[1], math.ceil(max(columns)) + 1), min(self.canvas[0], math.ceil(max(rows)) + 1))

    def _grid(self, first: tuple[int, int], end: tuple[int, int]) -> Tensor:
        """For `affine_grid`: from the result to a part of the canvas, places from -1 to 1. Shape: [1, 2, 3]."""
        (xx, xy, yx, yy), (height, width) = self._inverse(), self.size
        column, row = self._from(width / 2, height / 2)
        wide, high = end[0] - first[0], end[1] - first[1]
        rows = [
            [xx * width / wide, xy * height / wide, 2 * (column - first[0]) / wide - 1],
            [yx * width / high, yy * height / high, 2 * (row - first[1]) / high - 1],
        ]
        return torch.tensor([rows])


def draw_warp(size: Size, canvas: Size, augment: AugmentConfig) -> Warp:
    """A warp by random numbers of torch's global generator."""
    angle, scale = math.radians(_within(augment.mosaic_rotate)), drawn(*augment.mosaic_scale)
    along_x, along_y = (math.tan(math.radians(_within(augment.mosaic_shear))) for _ in range(2))
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    # The shear [[1, along_x], [along_y, 1]] times the rotation [[cosine, sine], [-sine, cosine]], which is done first.
    matrix = (cosine - along_x * sine, sine + along_x * cosine, along_y * cosine - sine, along_y * sine + cosine)
    down, right = ((0.5 + _within(augment.mosaic_shift or 0.0)) * side for side in size)
    return Warp(size, canvas, matrix, (down, right), scale)


def draw_point(size: Size) -> tuple[int, int]:
    """Row and column of a canvas of twice the size around which its four images lie, by torch's global generator."""
    height, width = size
    return int(drawn(0.5 * height, 1.5 * height)), int(drawn(0.5 * width, 1.5 * width))


def drawn(low: float, high: float) -> float:
    """A number of a range, by torch's global generator."""
    return float(torch.empty(()).uniform_(low, high))


def _within(most: float) -> float:
    return drawn(-most, most) if most else 0.0
