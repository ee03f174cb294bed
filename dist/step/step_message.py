"""The one small message that the ranks exchange in a step, while the first forward runs.

It carries the weights of this step's losses, micro-batch by micro-batch, so that each loss is divided by its weight over the
whole global batch; the loss sums of an earlier step, for the log and for noticing a loss that is not finite; whether any rank
was asked to stop; and whether any rank's clock reports that a checkpoint is due. Every entry is written by one rank and
zero on all others, so the sum is exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share

_FLAGS = ("stop", "save")  # the last columns


@dataclass(frozen=True)
class Agreed:
    """The sum of all ranks' messages.

    Attributes:
        weights: of each loss weighted by the targets: the sum over all micro-batches, added in their order.
        sums: loss sums of the reported step, `[V, losses]`; None if none was reported.
        stop: whether any rank was asked to stop.
        save: whether a checkpoint is due by any rank's clock.
    """

    weights: dict[str, float]
    sums: Tensor | None
    stop: bool
    save: bool


class StepMessage:
    """Sends and receives the message. `losses`: the names of all losses, in the same order on all ranks."""

    def __init__(self, world: World, mine: Share, losses: Sequence[str]):
        self._world, self._mine, self._losses = world, mine, tuple(losses)

    def send(self, weights: Sequence[Mapping[str, float]], report: Tensor | None, stop: bool, save: bool) -> "Pending":
        """Starts the all-reduce and returns at once.

        Args:
            weights: per micro-batch of this rank, the weights known from its targets.
            report: `[this rank's micro-batches, losses]`, or None; the same on all ranks.
        """
        named = tuple(weights[0])
        table = torch.zeros(self._mine.total, len(named) + len(self._losses) + len(_FLAGS), dtype=torch.float64)
        own = table[self._mine.first : self._mine.last]
        own[:, : len(named)] = torch.tensor([[w[name] for name in named] for w in weights], dtype=torch.float64)
        if report is not None:
            own[:, len(named) : -len(_FLAGS)] = report
        own[0, -len(_FLAGS) :] = torch.tensor([float(stop), float(save)])
        work = None
        if self._world.ranks.world > 1:
            work = torch.distributed.all_reduce(table, group=self._world.control, async_op=True)
        return Pending(table, named, report is not None, work)


class Pending:
    """A message under way."""

    def __init__(self, table: Tensor, named: tuple[str, ...], reported: bool, work: "torch.distributed.Work | None"):
        self._table, self._named, self._reported, self._work = table, named, reported, work

    def receive(self) -> Agreed:
        """Waits for the other ranks' parts."""
        if self._work is not None:
            self._work.wait()
        columns = self._table.T.tolist()
        weights = {name: sum(column) for name, column in zip(self._named, columns, strict=False)}
        sums = self._table[:, len(self._named) : -len(_FLAGS)] if self._reported else None
        stop, save = (any(column) for column in columns[-len(_FLAGS) :])
        return Agreed(weights, sums, stop, save)
