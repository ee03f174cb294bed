"""The strategies that train a model over all ranks: one module each, selected by name from `phalanx.configs.strategies`."""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from torch import nn

from phalanx.configs.errors import UserError
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.comm.process_group import World, group_of_one
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies.replicated import MakeOptimizer, TrainedNames
from phalanx.dist.strategies.strategy import Strategy

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


def wrap(
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    config: "RunConfig",
    world: World,
    mine: Share,
    phases: Sequence[TrainedNames],
) -> Strategy:
    """A model and its optimizer under the configured strategy. Its module's own `wrap` has the same arguments, the last
    only if the strategy can run several phases.

    Args:
        phases: the names of the parameters that each phase of a step trains.

    Raises:
        UserError: if the strategy cannot run on this number of ranks, or with this model.
    """
    name = config.dist.strategy
    spec = STRATEGIES[name]
    if spec.one_rank and world.ranks.world > 1:
        raise UserError(
            f"dist.strategy={name} runs on one rank, not on {world.ranks.world}. Set dist.strategy=ddp.", shared=True
        )
    if spec.shards:
        group_of_one(world)
    if len(phases) > 1 and spec.phased_module is None:
        possible = ", ".join(other for other, able in STRATEGIES.items() if able.phased_module is not None)
        raise UserError(
            f"dist.strategy={name} runs one optimizer, and the task has {len(phases)} phases, each with its own. "
            f"Set dist.strategy to one of {possible}.",
            shared=True,
        )
    module = spec.phased_module if len(phases) > 1 else spec.module
    if config.dist.reduce == "exact":
        module = spec.exact_module
    assert module is not None, "the configuration refuses dist.reduce=exact without such a module"
    several = (phases,) if len(phases) > 1 else ()
    made = importlib.import_module(f"{__name__}.{module}").wrap(model, make_optimizer, config, world, mine, *several)
    return cast(Strategy, made)
