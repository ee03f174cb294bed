"""How well masks are predicted, from a confusion matrix of pixels: rows are the true classes, columns the predicted ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phalanx.train.metrics import ratio


def confusion(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """How many pixels of each class (row) were taken for each class (column); those of a negative target count for nothing.

    Shape: whole numbers [H, W], both, to int64 [classes, classes].
    """
    counted = target >= 0
    pairs = target[counted].long() * classes + predicted[counted]
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def pixel_accuracy(confusion: Tensor) -> float:
    """Share of pixels whose class was found; NaN where there are none."""
    return ratio(int(confusion.trace()), int(confusion.sum()))


def iou(confusion: Tensor) -> list[float | None]:
    """Intersection over union of each class, over all pixels of all images; None where it is neither there nor predicted.

    Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015.
    """
    return [hit / (true + found - hit) if true + found else None for hit, true, found in _counts(confusion)]


def dice(confusion: Tensor) -> list[float | None]:
    """Dice (F1) of each class, `2 |A and B| / (|A| + |B|)`, over all pixels of all images; None as for `iou`."""
    return [2 * hit / (true + found) if true + found else None for hit, true, found in _counts(confusion)]


def recall(confusion: Tensor) -> list[float | None]:
    """Share of each class's pixels that was found; None of a class without any."""
    return [hit / true if true else None for hit, true, _ in _counts(confusion)]


def per_class(names: Sequence[str], confusion: Tensor, boundary_f: Sequence[float | None]) -> list[dict[str, Any]]:
    """A row a class: `class`, `pixels`, `iou`, `dice`, `accuracy` (share of its pixels that was found), `boundary_f`."""
    pixels = confusion.sum(dim=1).tolist()
    rows = zip(names, pixels, iou(confusion), dice(confusion), recall(confusion), boundary_f, strict=True)
    keys = ("class", "pixels", "iou", "dice", "accuracy", "boundary_f")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _counts(confusion: Tensor) -> list[tuple[int, int, int]]:
    """Of each class: pixels that are of it and predicted so, that are of it, that are predicted so."""
    counts = (confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0))
    return list(zip(*(count.tolist() for count in counts), strict=True))
