"""Segmentation metrics from a confusion matrix of pixels: rows are the true classes, columns the predicted ones."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phalanx.train.metrics import ratio


def confusion(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """The number of pixels of each class (row) predicted as each class (column); negative targets are ignored.

    Shape: integers [H, W], both, to int64 [classes, classes].
    """
    pairs = target.long() * classes + predicted
    return count_pixels(pairs, target >= 0, classes * classes).reshape(classes, classes)


def count_pixels(numbers: Tensor, counted: Tensor, total: int) -> Tensor:
    """How many of the counted pixels have each number.

    Unlike `torch.bincount`, or an index by a mask, it does not ask a GPU for its answer.

    Args:
        numbers: integers, from 0 to `total` (exclusive) where they are counted.
        counted: bool, of the same shape.

    Shape: int64 [total].
    """
    place = torch.where(counted, numbers, total).flatten()
    counts = torch.zeros(total + 1, dtype=torch.int64, device=numbers.device)
    return counts.index_add_(0, place, torch.ones_like(place, dtype=torch.int64))[:-1]  # integers: exact in any order


def pixel_accuracy(confusion: Tensor) -> float:
    """Share of correctly predicted pixels; NaN if there are none."""
    return ratio(int(confusion.trace()), int(confusion.sum()))


def iou(confusion: Tensor) -> list[float | None]:
    """Intersection over union of each class, over all pixels of all images; None if it neither occurs nor is predicted.

    Everingham et al., The PASCAL Visual Object Classes Challenge: A Retrospective, IJCV 2015.
    """
    return [hit / (true + found - hit) if true + found else None for hit, true, found in _counts(confusion)]


def dice(confusion: Tensor) -> list[float | None]:
    """Dice (F1) of each class, `2 |A and B| / (|A| + |B|)`, over all pixels of all images; None as for `iou`."""
    return [2 * hit / (true + found) if true + found else None for hit, true, found in _counts(confusion)]


def recall(confusion: Tensor) -> list[float | None]:
    """Share of each class's pixels that is correctly predicted; None for a class without pixels."""
    return [hit / true if true else None for hit, true, _ in _counts(confusion)]


def per_class(names: Sequence[str], confusion: Tensor, boundary_f: Sequence[float | None]) -> list[dict[str, Any]]:
    """One row per class: `class`, `pixels`, `iou`, `dice`, `accuracy` (its recall), `boundary_f`."""
    pixels = confusion.sum(dim=1).tolist()
    rows = zip(names, pixels, iou(confusion), dice(confusion), recall(confusion), boundary_f, strict=True)
    keys = ("class", "pixels", "iou", "dice", "accuracy", "boundary_f")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _counts(confusion: Tensor) -> list[tuple[int, int, int]]:
    """Per class: true positive pixels, pixels of the class, pixels predicted as the class."""
    counts = (confusion.diagonal(), confusion.sum(dim=1), confusion.sum(dim=0))
    return list(zip(*(count.tolist() for count in counts), strict=True))
