"""Masks of COCO's annotations: polygons, or run lengths.

Files are not trusted: a point a hundred million pixels away would take gigabytes in pycocotools, so polygons and run lengths
are checked against their image before anything is allocated.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from phalanx.configs.errors import UserError
from phalanx.data.files.values import integer, number

# Pixels of a polygon's outline. pycocotools takes 80 bytes for each; the finest outline of a large photograph has about 10^5.
_LONGEST = 2_000_000
_BITS = 60  # of a run length


def mask(outline: str, height: int, width: int) -> NDArray[numpy.bool_]:
    """The pixels of an object that `fault_of` accepts, `[height, width]`.

    Args:
        outline: the JSON of `segmentation`: polygons [[x, y, x, y, ...], ...] in pixels, whose union is the object; or
            `counts`, as numbers or as COCO's text, and `size`, height and width.
    """
    segmentation: Any = json.loads(outline)
    if not isinstance(segmentation, list):
        counts = segmentation["counts"]
        return _of_runs(counts if isinstance(counts, list) else _runs(counts), height, width)
    try:
        from pycocotools import mask as of_polygons
    except ImportError:
        raise UserError(
            "masks of COCO's polygons need pycocotools. Install it: pip install pycocotools, or set data.options.masks=false."
        ) from None
    parts = [_runs(part["counts"].decode()) for part in of_polygons.frPyObjects(segmentation, height, width)]
    return _of_runs(parts[0], height, width) if len(parts) == 1 else _union(parts, height, width)


def _of_runs(runs: Sequence[int] | None, height: int, width: int) -> NDArray[numpy.bool_]:
    """Decodes alternating run lengths of background and object, column by column."""
    assert runs is not None, "what fault_of refuses"
    inside = numpy.arange(len(runs)) % 2 == 1
    return numpy.repeat(inside, runs).reshape(width, height).T


def _union(parts: Sequence[Sequence[int] | None], height: int, width: int) -> NDArray[numpy.bool_]:
    """The union of parts, without a pass over all pixels per part: a file may have thousands of parts."""
    change = numpy.zeros(height * width + 1, numpy.int32)
    for runs in parts:
        assert runs is not None, "what pycocotools writes"
        ends = numpy.cumsum(runs, dtype=numpy.int64)
        numpy.add.at(change, ends[0::2][: len(ends) // 2], 1)
        numpy.add.at(change, ends[1::2], -1)
    return (numpy.cumsum(change[:-1], dtype=numpy.int32) > 0).reshape(width, height).T


def _runs(text: str) -> list[int] | None:
    """The run lengths in COCO's string; None if it is invalid. From the fourth on they are differences.

    A number's lowest bits come first, five per character. Of a character's value above 48, 32 marks that the number continues,
    and 16 in its last character that it is negative.
    """
    runs: list[int] = []
    value = shift = 0
    for character in map(ord, text):
        bits = character - 48
        if not 0 <= bits < 64 or shift > _BITS:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return None if shift else runs


def plain(outline: Any) -> Any:
    """An annotation's `segmentation` in its normal form: one polygon as a list of one, numbers as numbers."""
    if isinstance(outline, list):
        polygons = [outline] if outline and not any(isinstance(part, list | dict) for part in outline) else outline
        return [_numbers(polygon, number) for polygon in polygons]
    if isinstance(outline, dict):
        return {name: _numbers(value, integer) for name, value in outline.items() if name in ("size", "counts")}
    return outline


def _numbers(values: Any, read: Any) -> Any:
    """A list of numbers, if each value can be read as one; anything else unchanged."""
    if not isinstance(values, list) or {*map(type, values)} <= {int}:
        return values
    found = [read(value) for value in values]
    return values if None in found else found


def fault_of(outline: Any, height: int, width: int) -> str | None:
    """The error in an annotation's `segmentation`, in its `plain` form; None if there is none.

    Args:
        height, width: of the image; 0 if unknown.
    """
    if isinstance(outline, list):
        return (
            next((fault for polygon in outline if (fault := _polygon_fault(polygon, height, width))), None)
            if outline
            else ("it has no polygon")
        )
    if not isinstance(outline, dict) or "counts" not in outline or not _is_size(outline.get("size"), height, width):
        of = f" of {height} x {width} pixels" if height and width else ""
        return f"its segmentation is neither polygons nor run lengths{of}"
    counts, (height, width) = outline["counts"], outline["size"]
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != height * width:
        return "its run lengths are not those of the image"
    return None if any(runs[1::2]) else "its run lengths hold no pixel"


def _is_size(size: Any, height: int, width: int) -> bool:
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        return False
    return size == [height, width] or not (height and width)


def _polygon_fault(polygon: Any, height: int, width: int) -> str | None:
    if not isinstance(polygon, list) or len(polygon) % 2 or not {*map(type, polygon)} <= {int, float}:
        return "a polygon is not a list of pairs of numbers"
    if len(polygon) < 6:
        return f"a polygon of {len(polygon) // 2} points"
    try:
        points = numpy.array(polygon, numpy.float64).reshape(-1, 2)
    except OverflowError:
        points = numpy.full((1, 2), numpy.inf)
    if not numpy.isfinite(points).all():
        return "a polygon has a number that is infinite or NaN"
    if not (height and width):
        return None
    # Some points slightly outside of the image are normal, and ignored; these are not points of this image.
    low, high = points.min(axis=0), points.max(axis=0)
    beyond = max(height, width)
    if (low < -beyond).any() or (high > numpy.array([width, height]) + beyond).any():
        reach = ", ".join(f"{value:g}" for value in (*low, *high))
        return f"a polygon reaches from {reach} (left, top, right, bottom), far out of the image, which is {width} x {height}"
    length = numpy.abs(numpy.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
    return f"a polygon's outline is {length:.0f} pixels long" if length > _LONGEST else None
