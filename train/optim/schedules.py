"""Learning rates as pure functions of the step, without state; on a plateau, of the step and of the evaluations so far."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from phalanx.configs.optimizer_table import spec_of
from phalanx.configs.own_code import is_own, load_own
from phalanx.configs.sections.optim import OptimConfig, ScheduleConfig
from phalanx.dist.strategies.rates import Rates


@dataclass(frozen=True)
class Lengths:
    """How long the parts of a schedule are, in steps.

    Attributes:
        warmup: of the warm-up.
        curve: from there to the end of the schedule, at least 1.
        epoch: of an epoch, which need not be whole.
    """

    warmup: int
    curve: int
    epoch: float

    @classmethod
    def of(cls, schedule: ScheduleConfig, last_step: int, epoch: float) -> "Lengths":
        """For a run of so many steps."""
        warmup = schedule.warmup_steps if schedule.warmup_epochs is None else round(schedule.warmup_epochs * epoch)
        end = schedule.steps or (last_step if schedule.epochs is None else round(schedule.epochs * epoch))
        return cls(warmup, max(1, end - warmup), epoch)

    def at(self, number: float, schedule: ScheduleConfig) -> float:
        """The step after the warm-up that a number of `schedule.unit` means. Steps and epochs count from the run's first."""
        if schedule.unit == "share":
            return number * self.curve
        return number * (1 if schedule.unit == "steps" else self.epoch) - self.warmup


Curve = Callable[[int, ScheduleConfig, Lengths], float]


def _constant(step: int, config: ScheduleConfig, lengths: Lengths) -> float:
    return 1.0


def _down(share: float, config: ScheduleConfig) -> float:
    """From 1 to `final`, where `share` falls from 1 to 0."""
    return config.final + (1 - config.final) * share


def _linear(step: int, config: ScheduleConfig, lengths: Lengths) -> float:
    return _down(1 - _share(step, lengths), config)


def _cosine(step: int, config: ScheduleConfig, lengths: Lengths) -> float:
    """Half a cosine from 1 to `final` (Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, without restarts)."""
    return config.final + (1 - config.final) * (1 + math.cos(math.pi * _share(step, lengths))) / 2


def _polynomial(step: int, config: ScheduleConfig, lengths: Lengths) -> float:
    """(1 - share) to the power: the "poly" policy of DeepLab (Chen et al., arXiv:1606.00915, section 4.1)."""
    return _down((1 - _share(step, lengths)) ** config.power, config)


def _exponential(step: int, config: ScheduleConfig, lengths: Lengths) -> float:
    """gamma to the power of the epochs or steps since the warm-up; with `unit=share` gamma at the end."""
    unit = {"share": float(lengths.curve), "steps": 1.0, "epochs": lengths.epoch}[config.unit]
    return max(config.final, config.gamma ** (min(step, lengths.curve) / unit))


def _step(step: int, config: ScheduleConfig, lengths: Lengths) -> float:
    """A factor of gamma at each milestone reached, or after each `every`."""
    if config.every is None:
        # As shares, milestones are compared as they were when that was all there was: a resumed run must not differ.
        reached = (
            sum(_share(step, lengths) >= milestone for milestone in config.milestones)
            if config.unit == "share"
            else sum(step >= lengths.at(milestone, config) for milestone in config.milestones)
        )
        return config.gamma**reached
    unit = {"share": float(lengths.curve), "steps": 1.0, "epochs": lengths.epoch}[config.unit]
    counted = step if config.unit == "share" else step + lengths.warmup
    return float(config.gamma ** math.floor(min(counted, lengths.curve + lengths.warmup) / (config.every * unit) + 1e-9))


def _one_cycle(step: int, config: ScheduleConfig, lengths: Lengths) -> float:
    """Up and down in cosines: Smith and Topin, Super-Convergence, 2018 (arXiv:1708.07120), in two parts, as torch has it."""
    top, end = config.peak * lengths.curve - 1, lengths.curve - 1
    if step <= top:
        return _between(config.initial, 1.0, step / top if top > 0 else 1.0)
    return _between(1.0, config.final, min(1.0, (step - top) / (end - top)) if end > top else 1.0)


def _range_test(step: int, config: ScheduleConfig, lengths: Lengths) -> float:
    """Rising exponentially from `initial` to 1, to find a learning rate (Smith, WACV 2017, arXiv:1506.01186, section 3.3)."""
    return float(config.initial ** (1 - step / max(1, lengths.curve - 1)))


def _between(first: float, last: float, share: float) -> float:
    """Half a cosine."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


def _share(step: int, lengths: Lengths) -> float:
    return min(1.0, step / lengths.curve)


_CURVES: dict[str, Curve] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "polynomial": _polynomial,
    "exponential": _exponential,
    "step": _step,
    "multistep": _step,
    "one_cycle": _one_cycle,
    "plateau": _constant,
    "range_test": _range_test,
}


def depends_on_length(schedule: ScheduleConfig) -> bool:
    """Whether the learning rate of a step depends on the length of the run."""
    if schedule.name in ("constant", "plateau") or schedule.steps or schedule.epochs:
        return False
    return not (schedule.name in ("step", "multistep", "exponential") and schedule.unit != "share")


def scaled(optim: OptimConfig, global_batch: int) -> OptimConfig:
    """The settings with the learning rate for a global batch, where the recipe asks for that.

    Linear: Goyal et al., Accurate, Large Minibatch SGD, 2017 (arXiv:1706.02677); by the square root: Krizhevsky, One weird
    trick for parallelizing convolutional neural networks, 2014 (arXiv:1404.5997).
    """
    if optim.lr_scaling is None or optim.base_batch is None:
        return optim
    ratio = global_batch / optim.base_batch
    factor = ratio if optim.lr_scaling == "linear" else math.sqrt(ratio)
    return optim.model_copy(update={"lr": optim.lr * factor, "lr_scaling": None, "base_batch": None})


def learning_rate(optim: OptimConfig, schedule: ScheduleConfig, last_step: int, epoch: float) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0: linear warm-up, then the curve down to the last step.

    A user's own curve is called with the number of steps after the warm-up that are finished, how many there are, and
    `schedule.options`; it returns a factor of `optim.lr`.

    Args:
        last_step: the run's number of steps.
        epoch: steps of an epoch.
    """
    lengths = Lengths.of(schedule, last_step, epoch)
    own = load_own("schedule.name", schedule.name) if is_own(schedule.name) else None

    def rate(step: int) -> float:
        if schedule.by_epoch:
            step = math.ceil(math.floor((step + 0.5) / epoch) * epoch)
        if step < lengths.warmup:
            return optim.lr * _warming_up(step, schedule, lengths.warmup)
        if own is not None:
            return optim.lr * float(own(step - lengths.warmup, lengths.curve, **schedule.options))
        return optim.lr * _CURVES[schedule.name](step - lengths.warmup, schedule, lengths)

    return rate


def _warming_up(step: int, schedule: ScheduleConfig, steps: int) -> float:
    """The share of the rate in a warm-up; without `warmup_from` its end is reached with its last step, as it always was."""
    if schedule.warmup_from is None:
        return float(((step + 1) / steps) ** schedule.warmup_power)
    return float(schedule.warmup_from + (1 - schedule.warmup_from) * (step / steps) ** schedule.warmup_power)


def rates(optim: OptimConfig, schedule: ScheduleConfig, last_step: int, epoch: float) -> Callable[[int], Rates]:
    """The settings that change per step: the learning rate; while warming up or in a cycle that of biases and the momentum."""
    rate, lengths = learning_rate(optim, schedule, last_step, epoch), Lengths.of(schedule, last_step, epoch)
    full = spec_of(optim).momentum(optim) or 0.0

    def at(step: int) -> Rates:
        share = min(1.0, step / max(1, lengths.warmup))

        def risen(first: float | None, last: float) -> float | None:
            return None if first is None else first + (last - first) * share

        of_biases = risen(schedule.warmup_bias_lr, optim.lr) if share < 1 else None
        momentum = risen(schedule.warmup_momentum, full)
        if schedule.name == "one_cycle" and schedule.cycle_momentum is not None:
            momentum = _cycled(max(0, step - lengths.warmup), schedule, lengths, schedule.cycle_momentum)
        return Rates(rate(step), of_biases, momentum, step / epoch)

    return at


def _cycled(step: int, schedule: ScheduleConfig, lengths: Lengths, ends: tuple[float, float]) -> float:
    """The momentum, which falls while the learning rate rises, and rises again while that falls."""
    at_ends, at_peak = ends
    top, end = schedule.peak * lengths.curve - 1, lengths.curve - 1
    if step <= top:
        return _between(at_ends, at_peak, step / top if top > 0 else 1.0)
    return _between(at_peak, at_ends, min(1.0, (step - top) / (end - top)) if end > top else 1.0)
