"""A forward pass's share of the step's loss, which is over the global batch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from phalanx.dist.batchnorm.groups import BatchNormGroup
from phalanx.dist.microbatches.forward_passes import ForwardPass


class GlobalLoss:
    """Divides losses so that the ranks' gradients sum to that of the global batch.

    Args:
        groups: number of stats groups of a step; without synchronized statistics, its micro-batches.
        stats_groups: the process groups of this rank's shared forward passes, by their ranks.
        grad_divisor: by which the strategy divides the sum of the ranks' gradients.
    """

    def __init__(self, groups: int, stats_groups: Mapping[tuple[int, ...], BatchNormGroup], grad_divisor: int):
        self.groups = float(groups)
        self._stats_groups, self._grad_divisor = stats_groups, grad_divisor

    def part(
        self, total: Tensor, weight: float | Tensor, over_all: float | None, forward_pass: ForwardPass
    ) -> tuple[Tensor, Tensor]:
        """A loss's sum as it is reported, and its share of the step's loss, times the strategy's divisor.

        A weight that depends on predictions is not known over all ranks beforehand: such a loss is divided by the weight of
        its micro-batch, or of its stats group, and averaged over those. A weight of 0 (nothing to learn from) gives a loss
        of 0.

        Args:
            total, weight: of this forward pass.
            over_all: the weight over the global batch, if known.
        """
        if over_all is None:
            weight = self._group_weight(float(weight), forward_pass)
            total, over_all = total * (1 / weight if weight else 0.0), self.groups
        return total, total * (self._grad_divisor / over_all if over_all else 0.0)

    def _group_weight(self, weight: float, forward_pass: ForwardPass) -> float:
        """The weight over the ranks of a shared forward pass, equal on all of them."""
        if not forward_pass.is_shared:
            return weight
        sums = torch.tensor(weight, dtype=torch.float64)
        torch.distributed.all_reduce(sums, group=self._stats_groups[forward_pass.ranks].control)
        return float(sums)
