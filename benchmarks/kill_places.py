"""Where a rank is, known to the process that will kill it: its heartbeat writes to memory that both share."""

import mmap
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from phalanx.dist import heartbeat
from phalanx.dist.heartbeat import STAGES, Stage

START_UP = ("join", "build", "restore", "warm-up")
EVALUATION = ("evaluation", "metrics")
_LAYOUT = struct.Struct("<bq")  # number of the stage from 1, 0 before the first; the step under way


class Place(NamedTuple):
    """The stage that a rank has entered (none: it has not begun to join), and its step; 0 before the first of this attempt."""

    stage: str | None
    step: int

    @property
    def part(self) -> str:
        """`start-up` is all before the first step of the attempt; `evaluation`; `training` is all the rest, saves too."""
        if self.step == 0:
            return "start-up"
        return "evaluation" if self.stage in EVALUATION else "training"

    def to_json(self) -> dict[str, Any]:
        return {"part": self.part, "stage": self.stage, "step": self.step}


class Places:
    """Of each rank."""

    def __init__(self, ranks: int):
        self._memory = mmap.mmap(-1, max(1, ranks) * _LAYOUT.size)

    def __getitem__(self, rank: int) -> Place:
        number, step = _LAYOUT.unpack_from(self._memory, rank * _LAYOUT.size)
        return Place(STAGES[number - 1] if number else None, step)

    def told_by(self, rank: int) -> None:
        """In the process of a rank: from here on its heartbeat is known to all who share this."""
        own = heartbeat.beat

        def beat(stage: Stage, step: int | None = None) -> None:
            own(stage, step)
            _LAYOUT.pack_into(self._memory, rank * _LAYOUT.size, STAGES.index(stage) + 1, heartbeat.latest().step)

        heartbeat.beat = beat


class Durations:
    """How long the stages took that were seen, to choose an instant in one of them."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def learn(self, seen: Sequence[tuple[float, str]]) -> None:
        """From the times at which stages began."""
        for (begun, stage), (ended, _) in pairwise(seen):
            self._seconds[stage] = ended - begun

    def of(self, stage: str, unknown: float) -> float:
        return self._seconds.get(stage, unknown)
