"""Early stopping: the best value of a metric so far, and the number of evaluations since.

Checkpoints do not hold it: it follows from the evaluations in metrics.jsonl, which a resume cuts back to the checkpoint's
step, so that an uninterrupted run and a resumed one stop at the same step.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from phalanx.configs.schema import CheckpointConfig, RunConfig
from phalanx.dist.checkpoint import retention
from phalanx.dist.comm.collectives import broadcast_object
from phalanx.dist.comm.process_group import World
from phalanx.dist.storage.json_lines import number, read_lines
from phalanx.dist.storage.run_directory import RunDirectory


@dataclass
class Best:
    """
    Attributes:
        config: the metric, if any, and whether larger or smaller is better.
        patience: consecutive evaluations without a better value after which the run ends; None for never.
        value: the best so far; NaN for none.
        without_better: evaluations since then.
        evaluated: step of the last evaluation; 0 for none.
    """

    config: CheckpointConfig
    patience: int | None
    value: float = math.nan
    without_better: int = 0
    evaluated: int = 0

    def add(self, step: int, value: float) -> bool:
        """Adds an evaluation; returns whether its value is better than all before. NaN is never better."""
        assert self.config.best is not None
        self.evaluated = step
        better = retention.is_better(self.config.best, self.config.best_mode, value, self.value)
        if better:
            self.value = value
        self.without_better = 0 if better else self.without_better + 1
        return better

    @property
    def should_stop(self) -> bool:
        """Whether the patience is exhausted."""
        return self.patience is not None and self.without_better >= self.patience

    def __str__(self) -> str:
        return (
            f"{self.config.best} has not been better than {self.value:.4f} in the last {self.without_better} evaluations "
            f"(train.patience={self.patience})"
        )


def best_so_far(world: World, run: RunDirectory, config: RunConfig, step: int) -> Best:
    """The result of the evaluations up to a step, read by rank 0. All ranks call together."""
    best = Best(config.checkpoint, config.train.patience)
    for known, value in measured_so_far(world, run, config.checkpoint.best, step):
        best.add(known, value)
    return best


def measured_so_far(world: World, run: RunDirectory, metric: str | None, step: int) -> list[tuple[int, float]]:
    """Step and value of each evaluation up to a step, read by rank 0. All ranks call together."""
    if metric is None:
        return []
    rows: list[tuple[int, float]] = []
    if world.ranks.is_main:
        values = _logged(metric, read_lines(run.metrics, step=int))
        # Metrics in checkpoints too: a fork has no log of earlier evaluations.
        stored = retention.measured(run.checkpoints, metric)
        rows = sorted((known, value) for known, value in (stored | values).items() if known <= step)
    return broadcast_object(world, rows)


def _logged(metric: str, lines: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """The metric by step."""
    return {int(line["step"]): value for line in lines if (value := number(line.get(metric))) is not None}
