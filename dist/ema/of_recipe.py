"""The average of the weights that a recipe asks for."""

from typing import TYPE_CHECKING

from phalanx.dist.batchnorm.running_stats import MicroBatchStatistics
from phalanx.dist.ema import shares
from phalanx.dist.ema.averaged_buffers import AveragedBuffers
from phalanx.dist.ema.averaged_weights import Average
from phalanx.dist.strategies.strategy import Strategy

if TYPE_CHECKING:  # the engine runs without pydantic, as in `benchmarks/gpu.py`
    from phalanx.configs.schema import RunConfig


def average_of(
    config: "RunConfig",
    strategy: Strategy,
    statistics: MicroBatchStatistics,
    swa: shares.ShareOfNew | None,
    samples: int | None,
) -> Average | None:
    """That of `train.ema` or `train.swa_start`; None without.

    Args:
        swa: what share the weights have in their average after an update; None: no stochastic weight averaging.
        samples: number of an epoch's samples; None: all steps are of one epoch.
    """
    train = config.train
    if swa is not None:
        return Average(strategy, swa, AveragedBuffers(strategy.unwrapped, statistics, recomputes=True))
    if train.ema is None:
        return None
    is_due = shares.in_each_epoch(train.ema_every or 1, train.global_batch, samples)
    share_of_new = shares.exponential(train.ema, train.ema_ramp, train.ema_start or 0, is_due)
    weights_only = train.ema_ramp is None and train.ema_start is None
    return Average(strategy, share_of_new, None if weights_only else AveragedBuffers(strategy.unwrapped, statistics))
