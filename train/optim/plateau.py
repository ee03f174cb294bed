"""The learning rate is lowered where a metric has stopped improving: torch's `ReduceLROnPlateau`, with relative thresholds.

Checkpoints do not hold where it stands: it follows from the evaluations in metrics.jsonl, which a resume cuts back to the
checkpoint's step, so that an unbroken run and one that was killed between an evaluation and the next step lower the rate at the
same step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from phalanx.configs.schema import RunConfig
from phalanx.configs.sections.optim import ScheduleConfig
from phalanx.dist.checkpoint.retention import larger_is_better
from phalanx.dist.strategies.rates import Rates


def watched(config: RunConfig) -> str | None:
    """The metric that the schedule watches; None if it watches none."""
    return config.schedule.metric or config.checkpoint.best if config.schedule.name == "plateau" else None


def of_run(config: RunConfig) -> "Plateau | None":
    """The plateau of a recipe whose schedule has one."""
    metric = watched(config)
    return None if metric is None else Plateau(config.schedule, larger_is_better(metric, config.checkpoint.best_mode))


@dataclass
class Plateau:
    """
    Attributes:
        config: gamma, patience, threshold, cooldown and final of the schedule.
        larger: whether larger values are better.
        factor: of the learning rate, now.
    """

    config: ScheduleConfig
    larger: bool
    factor: float = 1.0
    _best: float = math.nan
    _bad: int = 0
    _cooling: int = 0
    _seen: int = 0

    def add(self, step: int, value: float) -> bool:
        """Adds the evaluation after a step, once; returns whether the rate is lower from now on. NaN is never better."""
        if step <= self._seen:
            return False
        self._seen, before = step, self.factor
        if self._is_better(value):
            self._best, self._bad = value, 0
        else:
            self._bad += 1
        if self._cooling:
            self._cooling, self._bad = self._cooling - 1, 0
        if self._bad > self.config.patience:
            self.factor = max(self.factor * self.config.gamma, self.config.final)
            self._cooling, self._bad = self.config.cooldown, 0
        return self.factor < before

    def _is_better(self, value: float) -> bool:
        if math.isnan(value) or math.isnan(self._best):
            return not math.isnan(value)
        room = self.config.threshold * abs(self._best)
        return value > self._best + room if self.larger else value < self._best - room

    def of(self, rates: Callable[[int], Rates]) -> Callable[[int], Rates]:
        """The settings of a step with the learning rate as it is lowered now."""

        def at(step: int) -> Rates:
            now = rates(step)
            return now._replace(learning_rate=now.learning_rate * self.factor)

        return at
