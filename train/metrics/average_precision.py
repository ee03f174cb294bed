"""Average precision: how well scores rank the samples with a label before those without."""

import torch
from torch import Tensor

from phalanx.train.metrics import mean_of_known


def average_precision(scores: Tensor, labels: Tensor) -> float | None:
    """The area under the precision-recall curve: `sum_k (R_k - R_(k-1)) * P_k`, without interpolation.

    Samples of equal score are one step of the curve, so that their order does not matter (as in scikit-learn).

    Args:
        scores: `[n]`.
        labels: `[n]`: 1 with the label, 0 without, negative if unknown, which is ignored.

    Returns:
        Between 0 and 1; None if no sample has the label.
    """
    known = labels >= 0
    scores, positive = scores[known], labels[known] > 0.5
    total = int(positive.sum())
    if not total:
        return None
    order = scores.argsort(descending=True, stable=True)
    scores, found = scores[order], positive[order].cumsum(dim=0)
    last = torch.ones_like(scores, dtype=torch.bool)  # of equal scores
    last[:-1] = scores[1:] != scores[:-1]
    taken = torch.arange(1, len(scores) + 1)[last]
    found = found[last]
    new = torch.diff(found, prepend=torch.zeros(1, dtype=found.dtype))
    return float((new.double() / total * (found.double() / taken.double())).sum())


def average_precisions(scores: Tensor, labels: Tensor) -> list[float | None]:
    """The average precision per class. Shape: both `[n, classes]`."""
    return [average_precision(scores[:, c], labels[:, c]) for c in range(scores.shape[1])]


def mean_average_precision(values: list[float | None]) -> float:
    """The mean over the classes with samples; NaN if there are none."""
    return mean_of_known(values)
