"""Overlap of boxes, in float64."""

import numpy
from numpy.typing import NDArray

Floats = NDArray[numpy.float64]
Flags = NDArray[numpy.bool_]


def box_areas(boxes: Floats) -> Floats:
    """Area of each box (left, top, right, bottom; right and bottom exclusive). Shape: [n, 4] to [n]."""
    found: Floats = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return found


def box_intersections(detections: Floats, truth: Floats) -> Floats:
    """Area that each detection shares with each true box. Shape: [k, 4], [n, 4] to [k, n]."""
    low = numpy.maximum(detections[:, None, :2], truth[None, :, :2])
    high = numpy.minimum(detections[:, None, 2:], truth[None, :, 2:])
    width, height = numpy.moveaxis(numpy.maximum(high - low, 0), -1, 0)
    shared: Floats = width * height
    return shared


def over_union(intersection: Floats, detected: Floats, true: Floats, crowd: Flags | None = None) -> Floats:
    """Intersection over union of each detection with each object, from areas; 0 without an overlap.

    With a crowd it is taken over the detection's own area: a detection completely inside it has an overlap of 1
    (cocodataset.org/#detection-eval).

    Shape: [k, n], [k], [n], [n] to [k, n].
    """
    union = detected[:, None] + true[None] - intersection
    if crowd is not None:
        union = numpy.where(crowd[None], detected[:, None], union)
    return numpy.divide(intersection, union, out=numpy.zeros_like(intersection), where=intersection > 0)
