"""Masks of COCO's annotations: polygons, or run lengths."""

import json
from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from phalanx.configs.errors import UserError


def mask(outline: str, height: int, width: int) -> NDArray[numpy.bool_]:
    """The pixels of an object, `[height, width]`.

    Args:
        outline: the JSON of `segmentation`: polygons [[x, y, x, y, ...], ...] in pixels, which together are the object; or
            `counts`, as numbers or as COCO's text, and `size`, height and width.
    """
    told: Any = json.loads(outline)
    if not isinstance(told, list):
        counts = told["counts"]
        return _of_runs(counts if isinstance(counts, list) else _runs(counts.encode()), height, width)
    try:
        from pycocotools import mask as of_polygons
    except ImportError:
        raise UserError(
            "masks of COCO's polygons need pycocotools. Install it: pip install pycocotools, or set data.options.masks=false."
        ) from None
    pixels = numpy.zeros((height, width), bool)
    for part in of_polygons.frPyObjects(told, height, width):
        pixels |= _of_runs(_runs(part["counts"]), height, width)
    return pixels


def _of_runs(runs: Sequence[int], height: int, width: int) -> NDArray[numpy.bool_]:
    """From the lengths of runs without and with the object in turn, down one column after another."""
    inside = numpy.arange(len(runs)) % 2 == 1
    return numpy.repeat(inside, runs).reshape(width, height).T


def _runs(text: bytes) -> list[int]:
    """The lengths in COCO's text. From the fourth on they are differences from the last but one.

    A number's lowest five bits come first, five a character. Of a character's value above 48, 32 says that the number goes on,
    and 16 of its last one that it is negative.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def fault_of(told: Any, height: int, width: int) -> str | None:
    """What is wrong with an annotation's `segmentation`; None for nothing."""
    if isinstance(told, list):
        if not told:
            return "it has no polygon"
        for polygon in told:
            if not isinstance(polygon, list) or len(polygon) % 2 or not all(_is_number(value) for value in polygon):
                return "a polygon is not a list of pairs of numbers"
            if len(polygon) < 6:
                return f"a polygon of {len(polygon) // 2} points"
        return None
    if not isinstance(told, dict) or "counts" not in told or told.get("size") != [height, width]:
        return f"its segmentation is neither polygons nor run lengths of {height} x {width} pixels"
    counts = told["counts"]
    runs = _runs(counts.encode()) if isinstance(counts, str) else counts
    whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs) and sum(runs) == height * width
    return None if whole else "its run lengths are not those of the image"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and numpy.isfinite(value).item()
