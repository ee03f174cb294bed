"""From a single-device model to one that trains over all ranks: every change to it, in one visible order."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from phalanx.configs.strategies import STRATEGIES
from phalanx.dist import activation_checkpointing, precision, strategies
from phalanx.dist.batchnorm import sync_batchnorm
from phalanx.dist.comm.process_group import World
from phalanx.dist.microbatches.sampler import Share
from phalanx.dist.strategies.blocks import blocks
from phalanx.dist.strategies.replicated import MakeOptimizer, TrainedNames
from phalanx.dist.strategies.strategy import Strategy

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


def parallelize(
    model: nn.Module,
    make_optimizer: MakeOptimizer,
    config: "RunConfig",
    world: World,
    mine: Share,
    synchronize: bool,
    phases: Sequence[TrainedNames] = (),
) -> Strategy:
    """Synchronized BatchNorm, memory format, activation checkpointing, precision, compilation, strategy.

    Each wraps the result of the one before.

    Args:
        model: on the CPU, in the dtype of its weights.
        mine: this rank's micro-batches of a step.
        synchronize: whether BatchNorm statistics are synchronized over ranks.
        phases: the names of the parameters that each phase of a step trains.

    Raises:
        UserError: if the strategy cannot run on this number of ranks, or with this model.
    """
    model = _convert_batchnorm(model, synchronize)
    if config.dist.channels_last and not STRATEGIES[config.dist.strategy].shards:
        # A shard is a contiguous range, which a weight in channels_last is not: there only the images are.
        model = model.to(memory_format=torch.channels_last)
    activation_checkpointing.apply(model, config)
    precision.apply(model, config.dist.precision, world.device)
    if config.dist.compile:
        _compile(model, config)
    return strategies.wrap(model, make_optimizer, config, world, mine, phases)


def _convert_batchnorm(model: nn.Module, synchronize: bool) -> nn.Module:
    # Without: a user's own SyncBatchNorm would synchronize statistics against the recipe.
    only = _BatchNorm if synchronize else nn.SyncBatchNorm
    return sync_batchnorm.convert(model, sync_batchnorm.SyncBatchNorm, only=only)[0]


def _compile(model: nn.Module, config: "RunConfig") -> None:
    """Compiles block by block where blocks are gathered one by one, or are of few forms: the same code is compiled once. Else
    the full model, whose parts then share kernels."""
    import torch._dynamo.config
    from torch._inductor import config as inductor

    # Otherwise dropout would draw other numbers than without compilation, and others again after another graph break.
    inductor.fallback_random = True
    parts = [model.get_submodule(name) for name in blocks(model)]
    forms = len({_form(part) for part in parts})
    repeats = len(parts) > 1 and (forms == 1 or 3 * forms <= len(parts))  # ViT, Swin, ConvNeXt; not ResNet-18 and -50
    if not STRATEGIES[config.dist.strategy].shards and not repeats:
        parts = [model]
    # Each form of a block counts, and each of its sizes: there is faster code for one size than for all.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(parts))
    for part in parts:
        part.compile(dynamic=False if repeats and not config.sizes_vary else None)


def _form(block: nn.Module) -> tuple[type, tuple[tuple[str, torch.Size], ...]]:
    """What blocks that run the same code have in common: a class, and the shapes of parameters."""
    return type(block), tuple((name, parameter.shape) for name, parameter in block.named_parameters())
