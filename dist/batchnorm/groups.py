"""Process groups for ranks that share BatchNorm statistics in a turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed
from torch.distributed import ProcessGroup

from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.forward_passes import ForwardPass


@dataclass(frozen=True)
class BatchNormGroup:
    """The ranks of a shared turn.

    Attributes:
        statistics: their group on this run's device.
        control: their group on CPU.
    """

    statistics: ProcessGroup
    control: ProcessGroup


def make_groups(
    world: World, turns: Sequence[Sequence[ForwardPass]], timeout_s: float
) -> dict[tuple[int, ...], BatchNormGroup]:
    """A group for every set of ranks that share a turn, by the ranks. All ranks call together."""
    groups = {}
    for ranks in sorted({forward_pass.ranks for own in turns for forward_pass in own if forward_pass.is_shared}):
        timeout = timedelta(seconds=timeout_s)
        # On CPU too a group apart from the gradients', whose exchange is under way in the same backward.
        statistics = torch.distributed.new_group(list(ranks), timeout=timeout)
        on_cpu = world.device.type == "cpu"
        control = statistics if on_cpu else torch.distributed.new_group(list(ranks), timeout=timeout, backend="gloo")
        if isinstance(statistics, ProcessGroup) and isinstance(control, ProcessGroup):  # else they are of other ranks
            groups[ranks] = BatchNormGroup(statistics, control)
    return groups
