"""Process groups of the ranks that share BatchNorm statistics in a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed
from torch.distributed import ProcessGroup

from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.forward_passes import ForwardPass


class StatsGroup:
    """The ranks that share statistics in the current forward pass; one object for all layers of a model."""

    def __init__(self) -> None:
        self.group: ProcessGroup | None = None


@dataclass(frozen=True)
class BatchNormGroup:
    """The ranks of a shared forward pass.

    Attributes:
        statistics: the group on this run's device.
        control: the group on CPU.
    """

    statistics: ProcessGroup
    control: ProcessGroup


def make_groups(
    world: World, all_passes: Sequence[Sequence[ForwardPass]], timeout_s: float
) -> dict[tuple[int, ...], BatchNormGroup]:
    """One group for every set of ranks that share a forward pass, keyed by those ranks. All ranks call together."""
    groups = {}
    for ranks in sorted({forward_pass.ranks for own in all_passes for forward_pass in own if forward_pass.is_shared}):
        timeout = timedelta(seconds=timeout_s)
        # On CPU too this group is not the gradients', whose all-reduce is under way in the same backward.
        statistics = torch.distributed.new_group(list(ranks), timeout=timeout)
        on_cpu = world.device.type == "cpu"
        control = statistics if on_cpu else torch.distributed.new_group(list(ranks), timeout=timeout, backend="gloo")
        if isinstance(statistics, ProcessGroup) and isinstance(control, ProcessGroup):  # otherwise the group has other ranks
            groups[ranks] = BatchNormGroup(statistics, control)
    return groups
