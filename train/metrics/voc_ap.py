"""PASCAL VOC's average precision, at an overlap of one half, from the rows of `phalanx.train.metrics.coco_ap`.

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010, section 4.2 (11 points, as until 2009), and its
development kit of 2010 to 2012 (every point). Difficult objects are ignored.
"""

import numpy
from torch import Tensor

from phalanx.train.metrics.box_iou import Flags
from phalanx.train.metrics.coco_ap import NOTHING, VOC_FLAG, VOC_TRUTH_FLAG, Detections, objects

_POINTS = 10  # recalls of 0, 0.1, ..., 1


def summary(rows: Tensor, truth_rows: Tensor, classes: int) -> dict[str, float]:
    """`voc_ap`, the mean over the classes that have objects, and `voc_ap_11_points`; -1 if none has."""
    found = [pair for pair in average_precisions(rows, truth_rows, classes) if pair is not None]
    every, eleven = (sum(values) / len(values) for values in zip(*found, strict=True)) if found else (NOTHING, NOTHING)
    return {"voc_ap": every, "voc_ap_11_points": eleven}


def average_precisions(rows: Tensor, truth_rows: Tensor, classes: int) -> list[tuple[float, float] | None]:
    """Per class, by every point and by eleven; None for a class without objects that count."""
    detections, totals = Detections.of(rows), objects(truth_rows, classes, VOC_TRUTH_FLAG)
    found: list[tuple[float, float] | None] = []
    for label, total in enumerate(totals):
        right, wrong = (flags[0] for flags in detections.of_class(label).right_and_wrong(VOC_FLAG))
        counted = right | wrong
        found.append(_areas(right[counted], total) if total else None)
    return found


def _areas(right: Flags, total: int) -> tuple[float, float]:
    """The area under the curve of the best precision at each recall or beyond it, by every point and by eleven.

    Args:
        right: of the detections that count, by descending score [k].
        total: number of objects.
    """
    hits = numpy.cumsum(right)
    best = numpy.maximum.accumulate((hits / numpy.arange(1, len(hits) + 1))[::-1])[::-1]
    every = float(best[right].sum()) / total  # recall rises by 1 / total with each right one
    # Recalls are compared as integers, so that 3 of 10 reach 0.3.
    reached = numpy.searchsorted(hits * _POINTS, numpy.arange(_POINTS + 1) * total, side="left")
    return every, float(numpy.append(best, 0.0)[reached].mean())
