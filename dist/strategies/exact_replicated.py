"""`dist.reduce=exact` with the full model on every rank: gradients are summed by the fixed tree, instead of by DDP."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.forward_passes import forward_passes, stats_group_size
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies.exact_reduce import ExactReduce
from phalanx.dist.strategies.replicas import Replicas
from phalanx.dist.strategies.replicated import MakeOptimizer, Replicated, TrainedNames

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


class Exact(Replicated):
    """`dist.reduce=exact`: the ranks exchange only what the fixed tree of sums needs.

    Args:
        in_one_backward: how many micro-batches have one backward, at most: those whose statistics this rank synchronizes. None
            if none do.
    """

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        world: World,
        mine: Share,
        phases: Sequence[TrainedNames] = (),
        in_one_backward: int | None = None,
    ):
        super().__init__(model, make_optimizer, phases)
        self.replicas = Replicas(model, in_one_backward or 1)
        trained = [[self.parameters[name] for name in self.parameters if name in own] for own in phases or (self._trained,)]
        self._reductions = [ExactReduce(own, world, mine, self.replicas.of, pairs=in_one_backward is None) for own in trained]

    @property
    def _reduce(self) -> ExactReduce:
        """That of the running phase."""
        return self._reductions[self.phase or 0]

    def select_phase(self, number: int | None) -> None:
        super().select_phase(number)
        self.replicas.follow()

    @contextmanager
    def forward_backward(self, numbers: range | None, last: bool) -> Iterator[None]:
        if numbers is not None:
            self._reduce.expect(numbers)
        yield

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        self._reduce.taken()

    def gradients(self) -> list[Tensor]:
        self._reduce.finish()
        return super().gradients()

    def discard(self) -> None:
        super().discard()
        self.replicas.discard()


def wrap(
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    config: "RunConfig",
    world: World,
    mine: Share,
    phases: Sequence[TrainedNames] = (),
) -> Exact:
    """As `phalanx.dist.strategies.wrap`."""
    group_size = stats_group_size(config.dist.sync_bn, mine.total)
    passes = forward_passes(mine.total, group_size, world.ranks.world)[world.ranks.rank]
    in_one_backward = max(own.size for own in passes) if group_size > 1 else None
    return Exact(model.to(world.device), make_optimizer, world, mine, phases, in_one_backward)
