"""Warnings about settings that are allowed but seldom intended, printed once before the first step."""

from phalanx.configs.schema import TrainConfig
from phalanx.configs.sections.dist import DistConfig

_FEW = 0.01  # share of the initial weights in the average at the end of a run that is accepted
LONGEST_RAMP = 2000  # steps, as in Ultralytics and YOLOX


def average_without_ramp(train: TrainConfig, last_step: int, has_statistics: bool) -> str | None:
    """The warning on `train.ema` without `train.ema_ramp`; None if that is harmless.

    Args:
        has_statistics: whether the model has BatchNorm, whose statistics would not be averaged.
    """
    if train.ema is None or train.ema_ramp is not None:
        return None
    initial, wrong = train.ema**last_step, []
    if initial > _FEW:
        wrong.append(f"{initial:.0%} of the average will still be the initial weights after {last_step} steps")
    if has_statistics:
        wrong.append("BatchNorm's statistics are not averaged with the weights")
    if not wrong:
        return None
    steps = max(1, min(LONGEST_RAMP, last_step // 3))
    return (
        f"train.ema={train.ema:g} without train.ema_ramp: {', and '.join(wrong)}, so that evaluation, which uses the average, "
        f"may be far worse than the weights. Set train.ema_ramp={steps} in a new run (null keeps what older runs did)."
    )


def late_watchdog(dist: DistConfig, world: int) -> str | None:
    """The warning on a watchdog that comes after the timeout of collectives, which blames the ranks that wait."""
    if world == 1 or not dist.hang_s or dist.hang_s < dist.timeout_s:
        return None
    return (
        f"dist.hang_s={dist.hang_s:g} is not below dist.timeout_s={dist.timeout_s:g}: if a rank hangs, those that wait for it "
        "will fail first, and it will not be named. Set a smaller dist.hang_s."
    )


def no_tensor_cores(precision: str, gpu: str | None) -> str | None:
    """The hint on `dist.precision=fp32` on a GPU with faster formats for the same weights; None elsewhere.

    Args:
        gpu: the name of such a GPU; None for another device.
    """
    if precision != "fp32" or gpu is None:
        return None
    return (
        f"dist.precision=fp32 does not use the tensor cores of {gpu}; tf32 and bf16 do, and are several times as fast (another "
        "experiment: set one in a new run)"
    )
