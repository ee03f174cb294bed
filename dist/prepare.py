"""What is done to a single-device model before its strategy takes it, in one visible order."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from phalanx.dist import precision
from phalanx.dist.batchnorm import sync_batchnorm
from phalanx.dist.comm.process_group import World
from phalanx.dist.strategies.blocks import blocks

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


def prepare(model: nn.Module, config: "RunConfig", world: World, shared_statistics: bool) -> nn.Module:
    """Synchronized BatchNorm, memory format, precision, compilation: each wraps the result of the one before."""
    dist = config.dist
    if shared_statistics:
        on_gpu = world.device.type == "cuda"
        kind = sync_batchnorm.CudaSyncBatchNorm if on_gpu else sync_batchnorm.CpuSyncBatchNorm
        model, _ = sync_batchnorm.convert(model, kind)
    else:
        # A user's own SyncBatchNorm would synchronize statistics against the recipe.
        model, _ = sync_batchnorm.convert(model, sync_batchnorm.CpuSyncBatchNorm, only=nn.SyncBatchNorm)
    if dist.channels_last:
        model = model.to(memory_format=torch.channels_last)
    precision.apply(model, dist.precision, world.device)
    if dist.compile:
        from torch._inductor import config as inductor

        # Otherwise dropout would draw other numbers than without compilation, and others again after another graph break.
        inductor.fallback_random = True
        compiled = [model] if dist.strategy in ("single", "ddp") else [model.get_submodule(name) for name in blocks(model)]
        for module in compiled:
            module.compile()
    return model
