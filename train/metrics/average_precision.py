"""Average precision: how well scores put the samples that have a label before those that have not."""

import torch
from torch import Tensor

from phalanx.train.metrics import mean_of_known


def average_precision(scores: Tensor, labels: Tensor) -> float | None:
    """The area under the curve of precision over recall: `sum_k (R_k - R_(k-1)) * P_k`, without interpolation.

    Samples of one score are one step of the curve, so that their order does not matter (as scikit-learn computes it).

    Args:
        scores: `[n]`.
        labels: `[n]`: 1 with the label, 0 without, negative where it is unknown, which counts for nothing.

    Returns:
        Between 0 and 1; None where no sample has the label.
    """
    known = labels >= 0
    scores, positive = scores[known], labels[known] > 0.5
    total = int(positive.sum())
    if not total:
        return None
    order = scores.argsort(descending=True, stable=True)
    scores, found = scores[order], positive[order].cumsum(dim=0)
    last = torch.ones_like(scores, dtype=torch.bool)  # of a run of equal scores
    last[:-1] = scores[1:] != scores[:-1]
    taken = torch.arange(1, len(scores) + 1)[last]
    found = found[last]
    new = torch.diff(found, prepend=torch.zeros(1, dtype=found.dtype))
    return float((new.double() / total * (found.double() / taken.double())).sum())


def average_precisions(scores: Tensor, labels: Tensor) -> list[float | None]:
    """Class by class. Shape: both `[n, classes]`."""
    return [average_precision(scores[:, c], labels[:, c]) for c in range(scores.shape[1])]


def mean_average_precision(values: list[float | None]) -> float:
    """The mean over the classes that some sample has; NaN where there is none."""
    return mean_of_known(values)
