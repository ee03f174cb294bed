"""A turn's part of the loss of a step, which is over the global batch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from phalanx.dist.batchnorm.groups import BatchNormGroup
from phalanx.dist.microbatches.forward_passes import ForwardPass


class GlobalLoss:
    """Divides losses so that the ranks' gradients sum to that of the global batch.

    Args:
        groups: how many groups of joint micro-batches a step has; without joint statistics, its micro-batches.
        joint_groups: of the ranks of each shared turn of this rank.
        divides_by: what the strategy divides the sum of the ranks' gradients by.
    """

    def __init__(self, groups: int, joint_groups: Mapping[tuple[int, ...], BatchNormGroup], divides_by: int):
        self.groups = float(groups)
        self._joint_groups, self._divides_by = joint_groups, divides_by

    def part(
        self, total: Tensor, weight: float | Tensor, over_all: float | None, forward_pass: ForwardPass
    ) -> tuple[Tensor, Tensor]:
        """A loss's sum as it is reported, and its share of the loss of the step, times what the strategy divides by.

        A weight that depends on predictions is not known over all ranks beforehand: such a loss is divided by the weight of
        its micro-batch, or of the micro-batches that run jointly with it, and averaged over those. Without weight, nothing
        was there to be learnt from: zero.

        Args:
            total, weight: of this turn.
            over_all: the weight over the global batch, where it is known.
        """
        if over_all is None:
            weight = self._joint_weight(float(weight), forward_pass)
            total, over_all = total * (1 / weight if weight else 0.0), self.groups
        return total, total * (self._divides_by / over_all if over_all else 0.0)

    def _joint_weight(self, weight: float, forward_pass: ForwardPass) -> float:
        """The weight over all ranks that run the turn jointly, the same on each."""
        if not forward_pass.is_shared:
            return weight
        sums = torch.tensor(weight, dtype=torch.float64)
        torch.distributed.all_reduce(sums, group=self._joint_groups[forward_pass.ranks].control)
        return float(sums)
