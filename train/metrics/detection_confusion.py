"""The confusion matrix of detections: classes, missed objects, and detections of nothing."""

from collections.abc import Mapping

import numpy
import torch
from torch import Tensor

from phalanx.train.metrics.box_iou import Flags, Floats, box_areas, box_intersections, over_union

OVERLAP = 0.5  # at which a detection and an object are paired


def confusion(prediction: Mapping[str, Tensor], truth: Mapping[str, Tensor], classes: int, score: float) -> Tensor:
    """The number of objects of each class (row) detected as each class (column); the last row and column are the background.

    Detections and objects are paired by their boxes, whatever their classes: the pair with the largest overlap first, down
    to one half; of equal overlaps that of the higher score. An object without a detection counts as background; so does a
    detection without an object, unless half of it lies in a crowd.

    Args:
        prediction: `boxes` [k, 4], `scores` [k], `labels` [k]; on the CPU.
        truth: `boxes` [n, 4], `labels` [n], optionally `crowd` [n].
        score: the lowest score of a detection that counts.

    Shape: int64 [classes + 1, classes + 1].
    """
    order = (-prediction["scores"].double()).argsort(stable=True)
    order = order[prediction["scores"][order].double() >= score]
    boxes, labels = prediction["boxes"][order].double().numpy(), prediction["labels"][order].numpy()
    crowd = truth["crowd"].bool() if "crowd" in truth else torch.zeros(len(truth["labels"]), dtype=torch.bool)
    objects, true_labels = truth["boxes"][~crowd].double().numpy(), truth["labels"][~crowd].numpy()
    iou = over_union(box_intersections(boxes, objects), box_areas(boxes), box_areas(objects))
    found = torch.zeros(classes + 1, classes + 1, dtype=torch.int64)
    free, missed = numpy.ones(len(boxes), bool), numpy.ones(len(objects), bool)
    for place in numpy.argsort(-iou, axis=None, kind="stable").tolist():
        detection, number = divmod(place, len(objects))
        if iou[detection, number] < OVERLAP:
            break
        if free[detection] and missed[number]:
            free[detection] = missed[number] = False
            found[true_labels[number], labels[detection]] += 1
    excused = _within(boxes, truth["boxes"][crowd].double().numpy())
    for label in labels[free & ~excused].tolist():
        found[classes, label] += 1
    for label in true_labels[missed].tolist():
        found[label, classes] += 1
    return found


def _within(boxes: Floats, crowds: Floats) -> Flags:
    """Whether half of each box lies in one of the crowds. Shape: [k, 4], [n, 4] to [k]."""
    shared = box_intersections(boxes, crowds)
    every = numpy.ones(len(crowds), bool)
    inside: Flags = over_union(shared, box_areas(boxes), box_areas(crowds), every) >= OVERLAP
    return numpy.asarray(inside.any(axis=1))
