"""How a single-device model trains over all ranks: one function a strategy, chosen by name."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import nn

from phalanx.configs.errors import UserError
from phalanx.configs.schema import DistConfig
from phalanx.dist.process_group import World


@dataclass(frozen=True)
class Wrapped:
    """A model under a strategy.

    Attributes:
        model: what the task calls.
        plain: the model as it was built: its parameters have their plain names.
        quiet: a context in which a backward exchanges no gradients.
        divides_by: what the strategy divides the sum of the ranks' gradients by.
    """

    model: nn.Module
    plain: nn.Module
    quiet: Callable[[], AbstractContextManager[None]]
    divides_by: int


def _single(model: nn.Module, world: World) -> Wrapped:
    return Wrapped(model, model, nullcontext, 1)


def _ddp(model: nn.Module, world: World) -> Wrapped:
    """Gradients are averaged bucket by bucket while the backward runs (DDP: Li et al., VLDB 2020)."""
    if world.ranks.world == 1:
        return _single(model, world)
    with warnings.catch_warnings():
        # torch 2.14 has another word for broadcast_buffers=False, which torch 2.11 does not know.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        wrapped = world.accelerator.prepare_model(model)
    if not isinstance(wrapped, nn.parallel.DistributedDataParallel):
        raise UserError(f"Accelerate wrapped the model as {type(wrapped).__name__}, not for DDP. Unset ACCELERATE_* variables.")
    return Wrapped(wrapped, model, wrapped.no_sync, world.ranks.world)


STRATEGIES: dict[str, Callable[[nn.Module, World], Wrapped]] = {"single": _single, "ddp": _ddp}


def wrap(model: nn.Module, config: DistConfig, world: World) -> Wrapped:
    """Turns a single-device model into one that trains over all ranks.

    Raises:
        UserError: where the strategy cannot run on so many ranks.
    """
    if config.strategy == "single" and world.ranks.world > 1:
        raise UserError(f"dist.strategy=single runs on one rank, not on {world.ranks.world}. Set dist.strategy=ddp.")
    if config.reduce == "exact":
        return _single(model, world)  # the engine adds up the gradients itself
    return STRATEGIES[config.strategy](model, world)
