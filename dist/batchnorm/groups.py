"""Process groups of the ranks that share BatchNorm statistics in a forward pass."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed
from torch import Tensor
from torch.distributed import ProcessGroup

from phalanx.dist.batchnorm.recomputed import Kept
from phalanx.dist.microbatches.forward_passes import ForwardPass


class StatsGroup:
    """The micro-batches that share statistics in the current forward pass; one object for all layers of a model.

    Attributes:
        group: their ranks; None if they are all this rank's.
        sizes: how many of them each of those ranks has.
        wait_for_others: given a layer, its input, and where that is kept if it may be dropped, normalises it together with the
            rank's other micro-batches, and returns the output, the mean and the unbiased variance; None where micro-batches
            are merged.
    """

    def __init__(self) -> None:
        self.group: ProcessGroup | None = None
        self.sizes: tuple[int, ...] = ()
        self.wait_for_others: Callable[[Any, Tensor, Kept | None], tuple[Tensor, Tensor, Tensor]] | None = None


def make_groups(all_passes: Sequence[Sequence[ForwardPass]], timeout_s: float) -> dict[tuple[int, ...], ProcessGroup]:
    """One group for every set of ranks that share a forward pass, keyed by those ranks. All ranks call together."""
    groups = {}
    for ranks in sorted({forward_pass.ranks for own in all_passes for forward_pass in own if forward_pass.is_shared}):
        # On CPU too this group is not the gradients', whose all-reduce is under way in the same backward.
        group = torch.distributed.new_group(list(ranks), timeout=timedelta(seconds=timeout_s))
        if isinstance(group, ProcessGroup):  # otherwise the group has other ranks
            groups[ranks] = group
    return groups
