"""`shapes`: pictures made on the fly, the same bits on every machine: textures, overlapping shapes of 8 classes, noise.

Computed from integers, from additions, multiplications, divisions and comparisons of float32, which IEEE 754 fixes, and from
random bits of PCG64, which numpy promises not to change (NEP 19).
"""

from typing import Any, Literal

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.dataset import Kind
from phalanx.dist.microbatches.randomness import key

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "star", "crescent")
_KINDS: dict[str, Kind] = {"class": "classification", "mask": "segmentation", "boxes": "detection"}
_OPTIONS = ("size", "train", "val", "seed", "target")
_MOST_SHAPES = 6
_SMALLEST_SIDE = 16
_VISIBLE = 0.5  # share of a shape that must stay visible
_NOISE = 24  # largest deviation of a pixel

Float = NDArray[numpy.float32]


class _Random:
    """A short stream of random numbers, from bits alone."""

    def __init__(self, seed: int):
        self._bits = numpy.random.PCG64(seed)

    def integers(self, low: int, high: int, count: int) -> NDArray[numpy.int64]:
        """`count` integers from `low` to `high` (exclusive); not more than 2**31 apart."""
        words = self._bits.random_raw(count) >> numpy.uint64(32)
        return (words * numpy.uint64(high - low) >> numpy.uint64(32)).astype(numpy.int64) + low

    def share(self, count: int) -> Float:
        """`count` numbers from 0 to 1 (exclusive), in steps of 2**-24."""
        return (self._bits.random_raw(count) >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(1 << 24)

    def bytes(self, count: int) -> NDArray[numpy.uint8]:
        return self._bits.random_raw(-(-count // 8)).astype("<u8").view(numpy.uint8)[:count]


class Shapes:
    """Pictures of shapes.

    `data.options`: `size`, the side in pixels (64); `train` and `val`, samples (2000 and 500); `seed` of the pictures (0); and
    `target`, what to learn:

    - `class` (the default): one shape per picture, and its class;
    - `mask`: one to six that overlap, and the class of each pixel, 0 for the background;
    - `boxes`: the same with a box, a class and a mask for each shape.

    Raises:
        UserError: if an option is invalid.
    """

    channels = 3
    mean = (0.497, 0.497, 0.497)
    std = (0.24, 0.24, 0.24)

    def __init__(self, config: DataConfig, split: str):
        options: dict[str, Any] = {"size": 64, "train": 2000, "val": 500, "seed": 0, "target": "class"} | config.options
        for name, value in options.items():
            if name not in _OPTIONS:
                raise UserError(f"data.options.{name}: shapes takes {', '.join(_OPTIONS)}. Remove it.")
            if name == "target" and value not in _KINDS:
                raise UserError(f"data.options.target={value}: shapes has {', '.join(_KINDS)}. Set one of them.")
            smallest = _SMALLEST_SIDE if name == "size" else 0
            if name != "target" and (not isinstance(value, int) or isinstance(value, bool) or value < smallest):
                raise UserError(f"data.options.{name}={value}: must be an integer of at least {smallest}.")
        if split not in ("train", "val"):
            raise UserError(f"shapes has no split {split!r}, but train and val. Set data.train_split, data.val_split.")
        self._side, self._count = int(options["size"]), int(options[split])
        self._seed, self._split = int(options["seed"]), split
        self._target: Literal["class", "mask", "boxes"] = options["target"]
        self.kind = _KINDS[self._target]
        self.has_masks = self._target == "boxes"
        self.classes = ("background", *SHAPES) if self._target == "mask" else SHAPES
        rows, columns = numpy.mgrid[0 : self._side, 0 : self._side].astype(numpy.float32) + numpy.float32(0.5)
        self._rows, self._columns = rows, columns

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._count:
            raise IndexError(f"{index} of {self._count} samples")
        random = _Random(key(self._seed, "shapes", self._split, self._target == "class", index))
        if self._target == "class":
            kinds, visible = self._one(random, index)
        else:
            kinds, visible = self._several(random)
        image = self._painted(random, visible)
        if self._target == "class":
            return {"image": image, "target": kinds[0]}
        if self._target == "mask":
            numbers = numpy.array(kinds, numpy.uint8).reshape(-1, 1, 1) + 1
            return {"image": image, "mask": torch.from_numpy((visible * numbers).sum(0, dtype=numpy.uint8))}
        return {
            "image": image,
            "boxes": torch.tensor([_box(one) for one in visible], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(kinds, dtype=torch.int64),
            "masks": torch.from_numpy(visible),
        }

    @property
    def labels(self) -> Tensor | None:
        """The class of each sample; classes alternate."""
        return torch.arange(self._count) % len(SHAPES) if self._target == "class" else None

    def counts_of(self, index: int) -> NDArray[numpy.int64]:
        """Pixels, or boxes, of each class in a sample."""
        sample = self[index]
        found = sample["mask"] if self._target == "mask" else sample["labels"]
        return numpy.bincount(found.flatten().numpy(), minlength=len(self.classes))

    def class_counts(self) -> list[int]:
        """Pixels, or boxes, of each class; makes every sample."""
        if (labels := self.labels) is not None:
            return numpy.bincount(labels.numpy(), minlength=len(self.classes)).tolist()
        return numpy.sum([self.counts_of(i) for i in range(self._count)], axis=0).tolist()

    def _one(self, random: _Random, index: int) -> tuple[list[int], NDArray[numpy.bool_]]:
        """One shape: [1] and [1, side, side]."""
        kind = index % len(SHAPES)
        return [kind], self._placed(random, kind, 0.22, 0.4)[None]

    def _several(self, random: _Random) -> tuple[list[int], NDArray[numpy.bool_]]:
        """Some shapes, from front to back, and the visible part of each: [n] and [n, side, side]."""
        count = int(random.integers(1, _MOST_SHAPES + 1, 1)[0])
        kinds: list[int] = []
        seen: list[NDArray[numpy.bool_]] = []
        taken = numpy.zeros((self._side, self._side), bool)
        for kind in random.integers(0, len(SHAPES), count).tolist():
            whole = self._placed(random, kind, 0.12, 0.3)
            visible = whole & ~taken
            if visible.sum() < _VISIBLE * whole.sum():
                continue  # nearly hidden: it would exist in the labels only
            kinds.append(kind)
            seen.append(visible)
            taken |= whole
        return kinds, numpy.stack(seen)

    def _placed(self, random: _Random, kind: int, smallest: float, largest: float) -> NDArray[numpy.bool_]:
        """A shape at a random place and angle: [side, side]. Sizes are half widths, as shares of the side."""
        size, x, y, turn = random.share(4).reshape(4, 1, 1)  # arrays: numpy 1 makes float64 of a float32 and a number
        side = numpy.float32(self._side)
        half = side * (numpy.float32(smallest) + size * numpy.float32(largest - smallest))
        centre_x, centre_y = (half + share * (side - 2 * half) for share in (x, y))
        # A rotation without sine and cosine, which differ in their last bits between machines.
        tangent = (turn - numpy.float32(0.5)) * numpy.float32(1.2)
        cosine, sine = (1 - tangent * tangent) / (1 + tangent * tangent), 2 * tangent / (1 + tangent * tangent)
        across, down = (self._columns - centre_x) / half, (self._rows - centre_y) / half
        return _inside(SHAPES[kind], cosine * across + sine * down, cosine * down - sine * across)

    def _painted(self, random: _Random, visible: NDArray[numpy.bool_]) -> Tensor:
        """Background, shapes in different colours, and noise: uint8 [3, side, side]."""
        side, areas = self._side, len(visible) + 1
        colours = random.integers(30, 226, 3 * areas).reshape(areas, 3)
        for number in range(1, areas):  # distinguishable from the background
            near = abs(colours[number] - colours[0]).sum() < 150
            colours[number] = (colours[number] + 128) % 256 if near else colours[number]
        area = numpy.zeros((side, side), numpy.int64)
        for number, one in enumerate(visible, 1):
            area[one] = number
        texture = _texture(random, side)
        noise = random.bytes(3 * side * side).reshape(3, side, side).astype(numpy.int32) * (2 * _NOISE + 1) >> 8
        image = colours.T.astype(numpy.int32)[:, area] + texture + noise - _NOISE
        return torch.from_numpy(image.clip(0, 255).astype(numpy.uint8))


def _inside(shape: str, x: Float, y: Float) -> NDArray[numpy.bool_]:
    """Which points lie in a shape of half width 1 around the origin, y downwards."""
    if shape == "circle":
        return x * x + y * y <= 0.8
    if shape == "square":
        return (abs(x) <= 0.72) & (abs(y) <= 0.72)
    if shape == "triangle":
        return (y <= 0.7) & (2 * abs(x) <= y + 1)
    if shape == "diamond":
        return abs(x) + 0.6 * abs(y) <= 0.6
    if shape == "cross":
        return (numpy.minimum(abs(x), abs(y)) <= 0.28) & (numpy.maximum(abs(x), abs(y)) <= 0.9)
    squared = x * x + y * y
    if shape == "ring":
        return (squared <= 0.85) & (squared >= 0.3)
    if shape == "crescent":
        return (squared <= 0.85) & ((x - 0.45) * (x - 0.45) + y * y >= 0.5)
    # The star of David: two triangles.
    return ((y <= 0.5) & (1.75 * abs(x) <= y + 1)) | ((y >= -0.5) & (1.75 * abs(x) <= 1 - y))


def _texture(random: _Random, side: int) -> NDArray[numpy.int32]:
    """Smooth noise on two scales, about -40 to 40: [side, side]."""
    return _smooth(random, side, 16, 24) + _smooth(random, side, 5, 16)


def _smooth(random: _Random, side: int, cell: int, height: int) -> NDArray[numpy.int32]:
    """Value noise: random numbers on a grid, linearly interpolated, in integers."""
    knots = side // cell + 2
    grid = random.integers(-height, height + 1, knots * knots).reshape(knots, knots).astype(numpy.int32)
    place, rest = numpy.divmod(numpy.arange(side, dtype=numpy.int32), cell)
    rows = grid[place] * (cell - rest)[:, None] + grid[place + 1] * rest[:, None]  # [side, knots]
    return (rows[:, place] * (cell - rest) + rows[:, place + 1] * rest) // (cell * cell)


def _box(mask: NDArray[numpy.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a mask's pixels; right and bottom are exclusive."""
    rows, columns = numpy.flatnonzero(mask.any(1)), numpy.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
