"""Overlap of masks, in pixels."""

import numpy

from phalanx.train.metrics.box_iou import Flags, Floats


def mask_areas(masks: Flags) -> Floats:
    """Pixels of each mask. Shape: [n, H, W] to [n]."""
    return numpy.count_nonzero(masks, axis=(1, 2)).astype(numpy.float64)


def mask_intersections(detections: Flags, truth: Flags, asked: Flags) -> Floats:
    """Pixels that each detected mask shares with each true one. Only the rectangle that both may share is compared.

    Args:
        asked: the requested pairs; the others get 0.

    Shape: [k, H, W], [n, H, W], [k, n] to [k, n].
    """
    shared = numpy.zeros(asked.shape)
    around = {place: _bounds(detections[place]) for place in numpy.flatnonzero(asked.any(axis=1)).tolist()}
    true_around = {number: _bounds(truth[number]) for number in numpy.flatnonzero(asked.any(axis=0)).tolist()}
    for place, number in numpy.argwhere(asked).tolist():
        top, left, bottom, right = around[place]
        true_top, true_left, true_bottom, true_right = true_around[number]
        part = slice(max(top, true_top), min(bottom, true_bottom)), slice(max(left, true_left), min(right, true_right))
        shared[place, number] = numpy.count_nonzero(detections[place][part] & truth[number][part])
    return shared


def _bounds(mask: Flags) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a mask's pixels; bottom and right are exclusive; zeros for an empty mask."""
    rows = numpy.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0, 0, 0, 0
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = numpy.flatnonzero(mask[top:bottom].any(axis=0))
    return top, int(columns[0]), bottom, int(columns[-1]) + 1
