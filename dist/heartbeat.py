"""This rank's progress: its main thread publishes each stage that it enters, for the watchdog (`dist/health/watchdog.py`)."""

import time
from typing import Literal, NamedTuple, get_args

# In the order in which every rank enters them; those from `loading` on recur in each step.
Stage = Literal[
    "join",
    "build",
    "restore",
    "warm-up",
    "loading",
    "GPU wait",
    "forward",
    "backward",
    "update",
    "evaluation",
    "metrics",
    "save",
    "end",
]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Position(NamedTuple):
    """The last stage entered.

    Attributes:
        step: the step under way, counted from 1; 0 while the run starts.
        time: seconds of this process's monotonic clock.
    """

    step: int
    stage: Stage
    time: float


_latest = Position(0, "join", time.monotonic())


def beat(stage: Stage, step: int | None = None) -> None:
    """The main thread enters a stage, or makes progress in it. Costs less than a microsecond: no lock, nothing is written.

    Args:
        step: the step under way, counted from 1; None if unchanged.
    """
    global _latest
    _latest = Position(_latest.step if step is None else step, stage, time.monotonic())


def latest() -> Position:
    return _latest
