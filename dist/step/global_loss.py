"""A forward pass's share of the step's loss, which is over the global batch."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup

from phalanx.dist.batchnorm.exact_sync import combine_by_tree, rows_of_all
from phalanx.dist.microbatches.forward_passes import ForwardPass


class GlobalLoss:
    """Divides losses so that the ranks' gradients sum to that of the global batch.

    Args:
        groups: number of stats groups of a step; without synchronized statistics, its micro-batches.
        stats_groups: the process groups of this rank's shared forward passes, by their ranks.
        grad_divisor: by which the strategy divides the sum of the ranks' gradients.
        exact: whether weights are added up by one tree, over micro-batches that are not merged.
    """

    def __init__(
        self, groups: int, stats_groups: Mapping[tuple[int, ...], ProcessGroup], grad_divisor: int, exact: bool = False
    ):
        self.groups = float(groups)
        self._stats_groups, self._grad_divisor, self._exact = stats_groups, grad_divisor, exact

    def parts(
        self,
        losses: Sequence[Mapping[str, tuple[Tensor, float | Tensor]]],
        known: Mapping[str, float | None],
        forward_pass: ForwardPass,
    ) -> list[dict[str, tuple[Tensor, Tensor]]]:
        """Each loss's sum as it is reported, and its share of the step's loss, times the strategy's divisor.

        A weight that depends on predictions is not known over all ranks beforehand: such a loss is divided by the weight of
        its micro-batch, or of its stats group, and averaged over those. A weight of 0 (nothing to learn from) gives a loss
        of 0. The host does not read it, and so does not wait for the device.

        Args:
            losses: by name, a sum and its weight: of this forward pass, or of each of its micro-batches.
            known: by name, the weight over the global batch, if known.
        """
        parts: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in losses]
        for name in losses[0]:
            sums, over_all = [own[name][0] for own in losses], known.get(name)
            if over_all is None:
                weight = self._group_weight([_on_device(own[name][1], own[name][0].device) for own in losses], forward_pass)
                inverse, over_all = torch.where(weight != 0, 1 / weight, 0.0), self.groups
                sums = [total * inverse.to(total.dtype) for total in sums]
            for part, total in zip(parts, sums, strict=True):
                part[name] = total, total * (self._grad_divisor / over_all if over_all else 0.0)
        return parts

    def _group_weight(self, weights: Sequence[Tensor], forward_pass: ForwardPass) -> Tensor:
        """The weight over the ranks of a shared forward pass, equal on all of them."""
        group = self._stats_groups[forward_pass.ranks] if forward_pass.is_shared else None
        if self._exact:
            return combine_by_tree(rows_of_all(torch.stack(list(weights)), group, forward_pass.sizes), torch.add)
        (weight,) = weights
        if group is not None:
            torch.distributed.all_reduce(weight, group=group)
        return weight


def _on_device(weight: float | Tensor, device: torch.device) -> Tensor:
    """A new 0-dimensional tensor, float64."""
    if isinstance(weight, Tensor) and weight.device == device:
        return weight.detach().to(torch.float64, copy=True)
    return torch.full((), float(weight), dtype=torch.float64, device=device)  # `torch.tensor` would wait for the device
