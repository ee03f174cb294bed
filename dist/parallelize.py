"""From a single-device model to one that trains over all ranks: every change that is made to it, in one visible order."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from phalanx.configs.strategies import STRATEGIES
from phalanx.dist import precision, strategies
from phalanx.dist.batchnorm import sync_batchnorm
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies.blocks import blocks
from phalanx.dist.strategies.replicated import MakeOptimizer
from phalanx.dist.strategies.strategy import Strategy

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig
    from phalanx.configs.sections.dist import DistConfig


def parallelize(
    model: nn.Module, make_optimizer: MakeOptimizer, config: "RunConfig", world: World, mine: Share, synchronize: bool
) -> Strategy:
    """Synchronized BatchNorm, memory format, precision, compilation, strategy: each sees what the one before it made.

    Args:
        model: on the CPU, in the format of its weights.
        mine: the micro-batches of a step that this rank runs.
        synchronize: whether BatchNorm statistics see micro-batches on several ranks.

    Raises:
        UserError: where the strategy cannot run on so many ranks, or with such a model.
    """
    model = _convert_batchnorm(model, world.device, synchronize)
    if config.dist.channels_last:
        model = model.to(memory_format=torch.channels_last)
    precision.apply(model, config.dist.precision, world.device)
    if config.dist.compile:
        _compile(model, config.dist)
    return strategies.wrap(model, make_optimizer, config, world, mine)


def _convert_batchnorm(model: nn.Module, device: torch.device, synchronize: bool) -> nn.Module:
    if synchronize:
        on_gpu = device.type == "cuda"
        kind = sync_batchnorm.CudaSyncBatchNorm if on_gpu else sync_batchnorm.CpuSyncBatchNorm
        model, _ = sync_batchnorm.convert(model, kind)
    else:
        # A SyncBatchNorm of the user's own would share statistics behind the recipe's back.
        model, _ = sync_batchnorm.convert(model, sync_batchnorm.CpuSyncBatchNorm, only=nn.SyncBatchNorm)
    return model


def _compile(model: nn.Module, config: "DistConfig") -> None:
    """The whole model where each rank holds all of it, else block by block, as blocks are gathered."""
    from torch._inductor import config as inductor

    # Else dropout would draw other numbers than without compilation, and others again where the graph is cut elsewhere.
    inductor.fallback_random = True
    is_sharded = bool(STRATEGIES[config.strategy].shards)
    for module in [model.get_submodule(name) for name in blocks(model)] if is_sharded else [model]:
        module.compile()
