"""Learning rates as pure functions of the step, without state."""

import math
from collections.abc import Callable

from phalanx.configs.optimizer_table import spec_of
from phalanx.configs.own_code import is_own, load_own
from phalanx.configs.sections.optim import OptimConfig, ScheduleConfig
from phalanx.dist.strategies.rates import Rates


def _constant(share: float, config: ScheduleConfig) -> float:
    return 1.0


def _cosine(share: float, config: ScheduleConfig) -> float:
    """Half a cosine from 1 to `final` (Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, without restarts)."""
    return config.final + (1 - config.final) * (1 + math.cos(math.pi * share)) / 2


def _polynomial(share: float, config: ScheduleConfig) -> float:
    """(1 - share) to the power: the "poly" policy of DeepLab (Chen et al., arXiv:1606.00915, section 4.1)."""
    return config.final + (1 - config.final) * (1 - share) ** config.power


def _step(share: float, config: ScheduleConfig) -> float:
    """A factor of gamma at each milestone reached."""
    return config.gamma ** sum(share >= milestone for milestone in config.milestones)


_CURVES = {"constant": _constant, "cosine": _cosine, "polynomial": _polynomial, "step": _step}


def depends_on_length(name: str) -> bool:
    """Whether the learning rate of a step depends on the length of the run."""
    return name != "constant"


def learning_rate(optim: OptimConfig, schedule: ScheduleConfig, last_step: int) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0: linear warm-up, then the curve down to the last step.

    A user's own curve is called with the number of steps after the warm-up that are finished, how many there are, and
    `schedule.options`; it returns a factor of `optim.lr`.
    """
    own = load_own("schedule.name", schedule.name) if is_own(schedule.name) else None

    def rate(step: int) -> float:
        if step < schedule.warmup_steps:
            return optim.lr * (step + 1) / schedule.warmup_steps
        after = max(1, last_step - schedule.warmup_steps)
        if own is not None:
            return optim.lr * float(own(step - schedule.warmup_steps, after, **schedule.options))
        share = min(1.0, (step - schedule.warmup_steps) / after)
        return optim.lr * _CURVES[schedule.name](share, schedule)

    return rate


def rates(optim: OptimConfig, schedule: ScheduleConfig, last_step: int) -> Callable[[int], Rates]:
    """The settings that change per step: the learning rate and, while warming up, that of biases and the momentum."""
    rate = learning_rate(optim, schedule, last_step)
    momentum = spec_of(optim).momentum(optim) or 0.0

    def at(step: int) -> Rates:
        share = min(1.0, step / max(1, schedule.warmup_steps))

        def risen(first: float | None, last: float) -> float | None:
            return None if first is None else first + (last - first) * share

        of_biases = risen(schedule.warmup_bias_lr, optim.lr) if share < 1 else None
        return Rates(rate(step), of_biases, risen(schedule.warmup_momentum, momentum))

    return at
