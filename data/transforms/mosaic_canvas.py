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
        rows, columns = self._sources()
        grid = torch.stack([columns / self.canvas[1] * 2 - 1, rows / self.canvas[0] * 2 - 1], dim=-1)
        colour = torch.tensor(fill.of(ground), dtype=torch.float32).view(-1, 1, 1)
        # What is outside counts as zero: the difference from the fill.
        seen = F.grid_sample((ground.float() - colour)[None], grid[None], align_corners=False)[0] + colour
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
        xx, xy, yx, yy = self.matrix
        determinant = xx * yy - xy * yx
        x = torch.arange(self.size[1]) + (0.5 - self.centre[1])
        y = torch.arange(self.size[0])[:, None] + (0.5 - self.centre[0])
        columns, rows = (yy * x - xy * y) / determinant, (xx * y - yx * x) / determinant
        return rows + self.canvas[0] / 2, columns + self.canvas[1] / 2


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
