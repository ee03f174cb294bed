"""A forward pass's share of the step's loss, which is over the global batch."""

from collections.abc import Mapping

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup

from phalanx.dist.microbatches.forward_passes import ForwardPass


class GlobalLoss:
    """Divides losses so that the ranks' gradients sum to that of the global batch.

    Args:
        groups: number of stats groups of a step; without synchronized statistics, its micro-batches.
        stats_groups: the process groups of this rank's shared forward passes, by their ranks.
        grad_divisor: by which the strategy divides the sum of the ranks' gradients.
    """

    def __init__(self, groups: int, stats_groups: Mapping[tuple[int, ...], ProcessGroup], grad_divisor: int):
        self.groups = float(groups)
        self._stats_groups, self._grad_divisor = stats_groups, grad_divisor

    def part(
        self, total: Tensor, weight: float | Tensor, over_all: float | None, forward_pass: ForwardPass
    ) -> tuple[Tensor, Tensor]:
        """A loss's sum as it is reported, and its share of the step's loss, times the strategy's divisor.

        A weight that depends on predictions is not known over all ranks beforehand: such a loss is divided by the weight of
        its micro-batch, or of its stats group, and averaged over those. A weight of 0 (nothing to learn from) gives a loss
        of 0. The host does not read it, and so does not wait for the device.

        Args:
            total, weight: of this forward pass.
            over_all: the weight over the global batch, if known.
        """
        if over_all is None:
            known = self._group_weight(_on_device(weight, total.device), forward_pass)
            total, over_all = total * torch.where(known != 0, 1 / known, 0.0).to(total.dtype), self.groups
        return total, total * (self._grad_divisor / over_all if over_all else 0.0)

    def _group_weight(self, weight: Tensor, forward_pass: ForwardPass) -> Tensor:
        """The weight over the ranks of a shared forward pass, equal on all of them."""
        if forward_pass.is_shared:
            torch.distributed.all_reduce(weight, group=self._stats_groups[forward_pass.ranks])
        return weight


def _on_device(weight: float | Tensor, device: torch.device) -> Tensor:
    """A new 0-dimensional tensor, float64."""
    if isinstance(weight, Tensor) and weight.device == device:
        return weight.detach().to(torch.float64, copy=True)
    return torch.full((), float(weight), dtype=torch.float64, device=device)  # `torch.tensor` would wait for the device
