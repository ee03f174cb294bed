"""How a single-device model trains over all ranks: one class a strategy, chosen by name."""

from typing import TYPE_CHECKING

from torch import nn

from phalanx.configs.errors import UserError
from phalanx.dist.comm.process_group import World, group_of_one
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies.replicated import Ddp, Exact, MakeOptimizer, Replicated
from phalanx.dist.strategies.strategy import Strategy

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


def share_model(model: nn.Module, make_optimizer: MakeOptimizer, config: "RunConfig", world: World, mine: Share) -> Strategy:
    """Turns a single-device model into one that trains over all ranks.

    Raises:
        UserError: where the strategy cannot run on so many ranks, or with such a model.
    """
    dist = config.dist
    if dist.strategy not in ("single", "ddp"):
        group_of_one(world)
    if dist.strategy.startswith("zero"):
        from phalanx.dist.strategies.zero import Zero

        return Zero(model, make_optimizer, config, world)
    if dist.reduce == "exact" and dist.strategy == "fsdp" and world.ranks.world > 1:
        from phalanx.dist.strategies.exact_sharded import ExactSharded

        return ExactSharded(model, make_optimizer, dist, world, config.micro_batches)
    if dist.strategy in ("fsdp", "hsdp") and dist.reduce == "fast":
        from phalanx.dist.strategies.sharded import Sharded

        return Sharded(model, make_optimizer, dist, world)
    model.to(world.device)
    if dist.reduce == "exact":
        return Exact(model, make_optimizer, world, mine)
    if world.ranks.world == 1:
        return Replicated(model, make_optimizer)
    if dist.strategy == "single":
        raise UserError(
            f"dist.strategy=single runs on one rank, not on {world.ranks.world}. Set dist.strategy=ddp.", shared=True
        )
    return Ddp(model, make_optimizer, world)
