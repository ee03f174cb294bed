"""Where the time of a run went. No torch here.

Goodput is the share of the elapsed rank-seconds in which ranks computed steps that the run kept. An attempt lasts from the
start of its processes to the last thing it wrote; a rank-second is one second of one rank, which on GPUs is a GPU-second. Time
between two attempts, in a queue or at night, is no rank-second and is told apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from phalanx.dist.storage.json_lines import number

_BEGINS = ("start", "resume")


@dataclass
class Attempt:
    """One start of the run's processes.

    Attributes:
        begun, ended: seconds since 1970.
        told: when its first event was written; the warm-up follows.
        ranks: how many it had.
        step: the first step that it made is the one after this.
        seconds: of one rank, by what they were for; what remains of the attempt is for nothing that was kept.
    """

    begun: float
    told: float
    ended: float
    ranks: int
    step: int
    seconds: dict[str, float] = field(default_factory=dict)
    has_begun: bool = False

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def first_line(self, when: float, steps_took: float, besides: float) -> None:
        """Counts the warm-up: what lies before the first logged steps, and is no evaluation and no save."""
        if not self.has_begun:
            self.has_begun = True
            self.add("start", max(0.0, when - self.told - steps_took - besides))


@dataclass(frozen=True)
class Goodput:
    """Rank-seconds by what they were for.

    Attributes:
        elapsed: of all attempts.
        parts: `steps`, `data`, `start`, `evaluation`, `save` and `rest`, which has repeated steps too; they add up to elapsed.
        between: seconds between attempts.
        attempts: their number.
    """

    elapsed: float
    parts: dict[str, float]
    between: float
    attempts: int

    @property
    def share(self) -> float:
        """Goodput."""
        return self.parts["steps"] / self.elapsed if self.elapsed else 0.0


def goodput(events: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]], global_batch: int) -> Goodput | None:
    """Of a run, by its events and its lines of metrics; None if it has made no step.

    A step's time follows from the samples per second that were logged next, without evaluations and saves; waiting for data is
    told apart by its logged share.
    """
    attempts = _attempts(events, lines)
    if not attempts or not lines:
        return None
    _add_steps(attempts, events, lines, global_batch)
    names = ("steps", "data", "start", "evaluation", "save")
    parts = {name: sum(one.seconds.get(name, 0.0) * one.ranks for one in attempts) for name in names}
    elapsed = sum((one.ended - one.begun) * one.ranks for one in attempts)
    rest = elapsed - sum(parts.values())
    if rest < 0:  # rates are of whole intervals, which may reach into an attempt that ended
        parts["steps"] = max(0.0, parts["steps"] + rest)
    between = sum(max(0.0, later.begun - one.ended) for one, later in pairwise(attempts))
    return Goodput(elapsed, parts | {"rest": max(0.0, rest)}, between, len(attempts))


def _attempts(events: Iterable[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> list[Attempt]:
    found: list[Attempt] = []
    for event in events:
        when = number(event.get("time"))
        if when is None:
            continue
        if event["event"] == "cut_back" and found:  # how far the attempt before had come
            found[-1].ended = max(found[-1].ended, number(event.get("until")) or 0.0)
        elif event["event"] in _BEGINS and "world_size" in event:
            setup = number(event.get("setup_s")) or 0.0
            ranks, step = event["world_size"], event.get("step")
            ranks, step = ranks if isinstance(ranks, int) else 1, step if isinstance(step, int) else 0
            found.append(Attempt(when - setup, when, when, ranks, step))
            found[-1].add("start", setup)
        elif found:
            found[-1].ended = max(found[-1].ended, when)
            found[-1].add("evaluation", number(event.get("evaluation_s")) or 0.0)
            found[-1].add("save", number(event.get("waited")) or 0.0)
    for line in lines:
        if found and (when := number(line.get("time"))) is not None:
            own = _attempt_at(found, when)
            own.ended = max(own.ended, when)
    return found


def _attempt_at(attempts: Sequence[Attempt], when: float) -> Attempt:
    return next((one for one in reversed(attempts) if one.begun <= when), attempts[0])


def _add_steps(
    attempts: Sequence[Attempt], events: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]], global_batch: int
) -> None:
    rates = [rate for line in lines if (rate := number(line.get("perf/samples_per_s")))]
    usual, before = (median(rates) if rates else None), 0
    for line in lines:
        rate = number(line.get("perf/samples_per_s")) or usual
        when = number(line.get("time"))
        if rate and when is not None and line["step"] > before:
            seconds = (line["step"] - before) * global_batch / rate
            waited = min(1.0, max(0.0, number(line.get("perf/data_wait")) or 0.0))
            own = _attempt_at(attempts, when)
            in_it = (line["step"] - max(before, own.step)) * global_batch / rate
            own.first_line(when, in_it, _besides(events, own.told, when))
            own.add("steps", seconds * (1 - waited))
            own.add("data", seconds * waited)
        before = max(before, line["step"])


def _besides(events: Sequence[Mapping[str, Any]], begun: float, ended: float) -> float:
    """Seconds of evaluations and saves between two times."""
    within = [event for event in events if begun < (number(event.get("time")) or 0.0) <= ended]
    return sum((number(event.get("evaluation_s")) or 0.0) + (number(event.get("waited")) or 0.0) for event in within)
