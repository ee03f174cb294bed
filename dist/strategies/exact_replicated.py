"""`dist.reduce=exact` with the full model on every rank: gradients are summed by the fixed tree, instead of by DDP."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies.exact_reduce import ExactReduce
from phalanx.dist.strategies.replicated import MakeOptimizer, Replicated, TrainedNames

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


class Exact(Replicated):
    """`dist.reduce=exact`: the ranks exchange only what the fixed tree of sums needs."""

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: MakeOptimizer,
        world: World,
        mine: Share,
        phases: Sequence[TrainedNames] = (),
    ):
        super().__init__(model, make_optimizer, phases)
        trained = [[name for name in self.parameters if name in own] for own in phases or (self._trained,)]
        self._reductions = [ExactReduce([self.parameters[name] for name in own], world, mine) for own in trained]

    @property
    def _reduce(self) -> ExactReduce:
        """That of the running phase."""
        return self._reductions[self.phase or 0]

    @contextmanager
    def forward_backward(self, number: int | None, last: bool) -> Iterator[None]:
        if number is not None:
            self._reduce.expect(number)
        yield

    def backward(self, loss: Tensor) -> None:
        loss.backward()
        self._reduce.taken()

    def gradients(self) -> list[Tensor]:
        self._reduce.finish()
        return super().gradients()


def wrap(
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    config: "RunConfig",
    world: World,
    mine: Share,
    phases: Sequence[TrainedNames] = (),
) -> Exact:
    """As `phalanx.dist.strategies.wrap`."""
    return Exact(model.to(world.device), make_optimizer, world, mine, phases)
