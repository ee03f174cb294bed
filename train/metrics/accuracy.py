"""Accuracy: over all samples, per class, and the confusion matrix."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from phalanx.train.metrics import mean_of_known


def count_classes(classes: Tensor, counted: Tensor, total: int) -> Tensor:
    """The number of samples per class.

    Args:
        classes: integers `[B]`; those that are not counted may be anything between 0 and `total`.
        counted: bool `[B]`.
        total: number of classes.

    Shape: int64 `[total]`.
    """
    counts = torch.zeros(total, dtype=torch.int64, device=classes.device)
    return counts.index_add_(0, classes, counted.long())  # integers: exact in any order


def confusion(target: Tensor, predicted: Tensor, counted: Tensor, total: int) -> Tensor:
    """The confusion matrix, true classes in rows, predicted ones in columns: int64 `[total, total]`."""
    return count_classes(target * total + predicted, counted, total * total).reshape(total, total)


def mean_class_accuracy(hits: Tensor, samples: Tensor) -> float:
    """The mean recall of the classes that have samples; NaN if there are none."""
    counts = zip(hits.tolist(), samples.tolist(), strict=True)
    return mean_of_known(hit / count if count else None for hit, count in counts)


def per_class(names: Sequence[str], hits: Tensor, samples: Tensor) -> list[dict[str, Any]]:
    """One row per class: `class`, `samples`, `top1` (None without samples)."""
    counts = zip(names, hits.tolist(), samples.tolist(), strict=True)
    return [{"class": name, "samples": n, "top1": hit / n if n else None} for name, hit, n in counts]
