"""The objects of all images of a split in a few arrays, and errors in them. No torch here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from phalanx.configs.errors import UserError
from phalanx.data.files.string_array import StringArray

_SPACING = 2.0**-22  # twice the relative distance of neighbours in float32
_TINY = 2.0**-126  # the smallest that float32 has in full
_BEYOND = 1.0  # pixels by which a box may exceed the image: annotations are rounded


@dataclass(frozen=True)
class ObjectTable:
    """Objects, in the order of their images.

    Attributes:
        boxes: float32 [objects, 4]: left, top, right, bottom, in pixels, or if `relative`, in shares of the image's sides.
        labels: int32 [objects].
        crowd: bool [objects]: many objects in one box, or one that is hard to see; never learnt.
        areas: float64 [objects], in pixels, NaN if missing; None if the format has no areas.
        ends: int64 [images + 1]: image `i` has the objects from `ends[i]` to `ends[i + 1]`.
        outlines: the JSON of COCO's `segmentation` of each object; None without masks.
    """

    boxes: NDArray[numpy.float32]
    labels: NDArray[numpy.int32]
    crowd: NDArray[numpy.bool_]
    areas: NDArray[numpy.float64] | None
    ends: NDArray[numpy.int64]
    relative: bool = False
    outlines: StringArray | None = None


@dataclass
class Found:
    """Collects objects as they are read; with areas and outlines if the lists exist."""

    areas: list[float] | None = None
    outlines: list[str] | None = None
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def add(
        self,
        image: int,
        box: tuple[float, float, float, float],
        label: int,
        crowd: bool = False,
        area: float = math.nan,
        outline: str = "",
    ) -> None:
        self.images.append(image)
        self.boxes.append(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        if self.areas is not None:
            self.areas.append(area)
        if self.outlines is not None:
            self.outlines.append(outline)

    def arrays(self, images: int, relative: bool = False) -> ObjectTable:
        """The objects sorted by image, stable within each."""
        of = numpy.array(self.images, numpy.int64)
        order = numpy.argsort(of, kind="stable")
        ends = numpy.zeros(images + 1, numpy.int64)
        numpy.cumsum(numpy.bincount(of, minlength=images), out=ends[1:])
        return ObjectTable(
            numpy.array(self.boxes, numpy.float32).reshape(-1, 4)[order],
            numpy.array(self.labels, numpy.int32)[order],
            numpy.array(self.crowd, bool)[order],
            None if self.areas is None else numpy.array(self.areas, numpy.float64)[order],
            ends,
            relative,
            None if self.outlines is None else StringArray.of(self.outlines[place] for place in order.tolist()),
        )


@dataclass
class Faults:
    """Objects that cannot be used: the first is refused by name, or with `data.on_error=skip` all are left out and counted.

    Args:
        skip: whether they are left out.
    """

    skip: bool
    _counts: dict[str, int] = field(default_factory=dict)
    _first: dict[str, str] = field(default_factory=dict)
    _remedies: dict[str, str] = field(default_factory=dict)

    def add(self, where: str, problem: str, kind: str, remedy: str) -> None:
        """Adds an object that is left out.

        Args:
            where: file and id.
            kind: the common description of such objects, as `have no area`.
        """
        self._first.setdefault(kind, f"{where}: {problem}")
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._remedies.setdefault(kind, remedy)

    def notes(self, total: int) -> tuple[str, ...]:
        """Messages on what was left out, one per kind.

        Raises:
            UserError: if nothing may be left out, with one line per kind.
        """
        lines = [f"{first}. {self._counts[kind]} of {total} objects {kind}." for kind, first in self._first.items()]
        if lines and not self.skip:
            remedies = list(self._remedies.values())
            said = [
                f"{line} {remedy}; data.on_error=skip leaves such objects out."
                for line, remedy in zip(lines, remedies, strict=True)
            ]
            raise UserError("\n".join(said))
        return tuple(f"{line} They are left out." for line in lines)


def fault_of(box: Sequence[float], width: float, height: float) -> tuple[str, str] | None:
    """The error in a box, and the common description of such boxes; None if there is none.

    Args:
        box: left, top, right, bottom.
        width, height: of the image, in the unit of the box; 0 if unknown.
    """
    left, top, right, bottom = box
    shown = f"the box {', '.join(f'{value:g}' for value in box)} (left, top, right, bottom)"
    if not all(math.isfinite(value) for value in box):
        return f"{shown} has a number that is not finite", "have boxes with numbers that are not finite"
    without_area = "have boxes without area"
    if right < left or bottom < top:
        return f"{shown} has a negative side", "have boxes with negative sides"
    if right == left or bottom == top:
        return f"{shown} has no area", without_area
    rounded = f"{shown} has no area once its numbers have the 24 bits of float32", without_area
    if not (width and height):
        return rounded if _vanishes(left, right) or _vanishes(top, bottom) else None
    beyond = _BEYOND if max(width, height) > 1 else _BEYOND / 100
    inside = left < width and top < height and right > 0 and bottom > 0
    if not inside or left < -beyond or top < -beyond or right > width + beyond or bottom > height + beyond:
        return f"{shown} exceeds the image, which is {width:g} x {height:g}", "exceed their images"
    within = max(left, 0.0), min(right, width), max(top, 0.0), min(bottom, height)
    return rounded if _vanishes(*within[:2]) or _vanishes(*within[2:]) else None


def _vanishes(low: float, high: float) -> bool:
    """Whether a side has no length in float32."""
    return high - low <= max(abs(low) * _SPACING, abs(high) * _SPACING, _TINY)
