"""Losses of regression, each as a sum over a batch and the weight that the sum is to be divided by, as in `losses.py`.

Each divided by its weight is torch's own mean over elements; of `kl` over samples ("batchmean"), of `nll` over labels.
Outputs and targets have the same shape, `[B, ...]`; those of `nll` are log-probabilities `[B, classes, ...]` and integers
`[B, ...]`. Elements of a target that are NaN, and negative labels of `nll`, are unknown and do not count.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

RegressionName = Literal["mse", "l1", "smooth_l1", "huber", "kl", "nll", "hinge"]
_IGNORED = -100  # torch's own ignore_index


@dataclass(frozen=True)
class RegressionLoss:
    """
    - `mse`: squared error; `l1`: absolute error;
    - `smooth_l1` (Girshick, arXiv:1504.08083): squared below `threshold`, over twice the threshold; `huber` (Huber, 1964):
      the same times the threshold;
    - `kl`: Kullback-Leibler divergence of the target's probabilities from those of a softmax of the output;
    - `nll`: negative log-likelihood of integers;
    - `hinge`: `max(0, 1 - t * x)` of targets -1 and 1.

    Attributes:
        threshold: of `smooth_l1` and `huber`.
    """

    name: RegressionName
    threshold: float = 1.0

    def total(self, output: Tensor, target: Tensor) -> Tensor:
        """The sum over the batch, 0-dimensional."""
        if self.name == "nll":
            return F.nll_loss(output, target.long().masked_fill(target < 0, _IGNORED), reduction="sum")
        target = target.to(output.dtype)
        known = ~target.isnan()
        target = torch.where(known, target, 0.0)
        return (self._terms(output, target) * known).sum()

    def _terms(self, output: Tensor, target: Tensor) -> Tensor:
        match self.name:
            case "mse":
                return (output - target).square()
            case "l1":
                return (output - target).abs()
            case "smooth_l1":
                return F.smooth_l1_loss(output, target, reduction="none", beta=self.threshold)
            case "huber":
                return F.huber_loss(output, target, reduction="none", delta=self.threshold)
            case "kl":
                return F.kl_div(output.log_softmax(dim=1), target, reduction="none")
            case _:
                return (1 - target * output).clamp(min=0)

    def weight(self, target: Tensor) -> Tensor:
        """What the sum is divided by, 0-dimensional, float64, from the targets alone."""
        if self.name == "nll":
            return (target >= 0).sum(dtype=torch.float64)
        if self.name == "kl":
            return torch.tensor(float(len(target)), dtype=torch.float64, device=target.device)
        return (~target.isnan()).sum(dtype=torch.float64)
