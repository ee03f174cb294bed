"""Every rank holds the full model: a single rank, or DDP."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint.entries import Entry, entry
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies import optimizer_state
from phalanx.dist.strategies.rates import Rates

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig
    from phalanx.dist.checkpoint.manifest import Manifest

TrainedNames = frozenset[str]  # of the parameters that a phase trains
MakeOptimizer = Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer]


class Replicated:
    """A single rank; the base of strategies with a torch optimizer over the model's own parameters."""

    collective = False
    grad_divisor = 1

    def __init__(self, model: nn.Module, make_optimizer: MakeOptimizer, phases: Sequence[TrainedNames] = ()):
        self.model = self.unwrapped = model
        self.parameters = dict(model.named_parameters())
        trained = {n: p for n, p in self.parameters.items() if p.requires_grad}
        self.optimizer = make_optimizer(trained)
        self._trained, self._phases = frozenset(trained), phases
        self.phase: int | None = None

    def select_phase(self, number: int | None) -> None:
        self.phase = number
        now = self._trained if number is None else self._phases[number]
        for name in self._trained:
            self.parameters[name].requires_grad_(name in now)

    def forward_backward(self, numbers: range | None, last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def sum_of_parts(self, value: Tensor) -> Tensor:
        return value

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return nn.utils.get_total_norm(gradients)

    def update(self, rates: Rates) -> None:
        rates.set(self.optimizer.param_groups)
        first = not self.optimizer.state
        self.optimizer.step()
        if first:
            optimizer_state.check(self.optimizer, self.parameters)
        self.discard()

    def discard(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def entries(self) -> list[Entry]:
        own = [entry(name, "model", parameter) for name, parameter in self.parameters.items()]
        return [*own, *optimizer_state.entries(self.optimizer, self.parameters)]

    def scalars(self) -> dict[str, Any]:
        return optimizer_state.scalars(self.optimizer, self.parameters)

    def allocate_state(self, stored: "Manifest") -> None:
        optimizer_state.allocate_state(self.optimizer, self.parameters, stored.tensors, stored.state["optimizer"])

    def after_load(self) -> None:
        """Does nothing: the entries are the parameters themselves."""

    def full_params(self) -> AbstractContextManager[nn.Module]:
        return nullcontext(self.unwrapped)


class Ddp(Replicated):
    """Gradients are averaged bucket by bucket while the backward runs (DDP: Li et al., VLDB 2020).

    Raises:
        UserError: if Accelerate would wrap the model differently.
    """

    def __init__(self, model: nn.Module, make_optimizer: MakeOptimizer, world: World):
        super().__init__(model, make_optimizer)
        with warnings.catch_warnings():
            # torch 2.14 has a new argument in place of broadcast_buffers=False, which torch 2.11 lacks.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            wrapped = world.accelerator.prepare_model(model)
        if not isinstance(wrapped, nn.parallel.DistributedDataParallel):
            kind = type(wrapped).__name__
            raise UserError(f"Accelerate wrapped the model as {kind}, not for DDP. Unset ACCELERATE_* variables.", shared=True)
        self.model = self._wrapped = wrapped
        self.grad_divisor = world.ranks.world

    def forward_backward(self, numbers: range | None, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self._wrapped.no_sync()


def wrap(model: nn.Module, make_optimizer: MakeOptimizer, config: "RunConfig", world: World, mine: Share) -> Replicated:
    """As `phalanx.dist.strategies.wrap`: DDP, or the bare model on a single rank."""
    model.to(world.device)
    return Replicated(model, make_optimizer) if world.ranks.world == 1 else Ddp(model, make_optimizer, world)
