"""Matching of an image's detections with its objects."""

import numpy

from phalanx.train.metrics.box_iou import Flags, Floats


def greedy(iou: Floats, thresholds: Floats, crowd: Flags, ignored: Flags) -> tuple[Flags, Flags]:
    """COCO's matching: each detection, best first, takes the free object that it overlaps most, at least by the threshold.

    If none is left, it takes an ignored one likewise, which excuses it; a crowd may be taken repeatedly. Of equal
    overlaps the last object is taken, as in COCO's program. (cocodataset.org/#detection-eval; arXiv:1405.0312.)

    Args:
        iou: of detections, in descending order of scores, with objects [k, n]; negative for pairs that cannot match.
        thresholds: [T], rising.
        crowd: [n].
        ignored: objects that are ignored [A, n], per range of areas.

    Returns:
        Which detections have an object, and which of these an ignored one: both [A, T, k].
    """
    matched = numpy.zeros((len(ignored), len(thresholds), len(iou)), bool)
    excused, taken = numpy.zeros_like(matched), numpy.zeros((len(ignored), len(thresholds), iou.shape[1]), bool)
    for place in numpy.flatnonzero((iou >= thresholds[0]).any(axis=1)).tolist():
        near = numpy.flatnonzero(iou[place] >= thresholds[0])[::-1]  # backwards, as argmax gives the first of equals
        overlap, ignorable = iou[place, near], ignored[:, None, near]  # [G], [A, 1, G]
        possible = (overlap >= thresholds[:, None]) & (crowd[near] | ~taken[..., near])  # [A, T, G]
        regular = possible & ~ignorable
        wanted = numpy.where(regular.any(axis=-1, keepdims=True), regular, possible)
        best = numpy.where(wanted, overlap, -1).argmax(axis=-1)  # [A, T]
        found = wanted.any(axis=-1)
        matched[..., place] = found
        excused[..., place] = found & numpy.take_along_axis(ignored[:, near], best, axis=1)
        ways, levels = numpy.nonzero(found)
        taken[ways, levels, near[best[ways, levels]]] = True
    return matched, excused


def first_come(iou: Floats, threshold: float, difficult: Flags) -> tuple[Flags, Flags]:
    """PASCAL VOC's matching: each detection is compared with the object that it overlaps most, free or not.

    If that is difficult, the detection is ignored; if it is taken, the detection is wrong. (Everingham et al., The
    PASCAL Visual Object Classes Challenge, IJCV 2010, section 4.2; of equal overlaps the first counts, as in its program.)

    Args:
        iou: as for `greedy`, without crowds.
        difficult: [n].

    Returns:
        Which detections are right, and which are ignored: both [k].
    """
    right, excused = numpy.zeros(len(iou), bool), numpy.zeros(len(iou), bool)
    if not iou.size:
        return right, excused
    nearest = iou.argmax(axis=1)
    near = numpy.flatnonzero(iou.max(axis=1) >= threshold)
    excused[near] = difficult[nearest[near]]
    regular = near[~excused[near]]
    _, first = numpy.unique(nearest[regular], return_index=True)
    right[regular[first]] = True
    return right, excused
