"""All runs below a folder in one table: state, step, rate, time left, best value, restarts."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint.retention import best_of
from phalanx.dist.storage.json_lines import number, read_lines
from phalanx.dist.storage.run_directory import RunDirectory, read_events
from phalanx.slurm.status import status

_RECENT = 20  # intervals between lines of which the rate is the median
_HEAD = ("run", "state", "step", "of", "steps/s", "left", "best", "at step", "restarts", "changed")


@dataclass(frozen=True)
class Row:
    """A run in the table.

    Attributes:
        name: its directory, relative to the folder.
        state: as in `Status`.
        step, steps: the last logged one, and of how many; None if unknown.
        rate: steps per second, of the last logged ones; None where there are too few.
        left_s: seconds that the remaining steps take at that rate, while it runs.
        metric, best, best_step: of `checkpoint.best`, its best value so far, and after which step.
        restarts: how often it was resumed.
        changed: when it last logged anything, in seconds since 1970.
    """

    name: str
    state: str
    step: int
    steps: int | None
    rate: float | None
    left_s: float | None
    metric: str | None
    best: float | None
    best_step: int | None
    restarts: int
    changed: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def cells(self, now: float) -> tuple[str, ...]:
        """For a person, under `_HEAD`."""
        best = "" if self.best is None else f"{self.metric} {self.best:.4g}"
        return (
            self.name,
            self.state,
            str(self.step),
            "" if self.steps is None else str(self.steps),
            "" if self.rate is None else f"{self.rate:.3g}",
            "" if self.left_s is None else str(timedelta(seconds=round(self.left_s))),
            best,
            "" if self.best_step is None else str(self.best_step),
            str(self.restarts) if self.restarts else "",
            "" if self.changed is None else f"{_ago(now - self.changed)} ago",
        )


def _ago(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds / unit)} {name}"
    return f"{max(0, int(seconds))} s"


def directories(folder: Path) -> Iterator[RunDirectory]:
    """The run directories below a folder, in it and one level deeper, by name.

    Raises:
        UserError: if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Give the folder of the run directories, or a run directory.")
    for path in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
        if RunDirectory(path).identity.is_file():
            yield RunDirectory(path)
        else:
            members = sorted(file.parent for file in path.glob("*/run.json") if file.is_file())
            yield from map(RunDirectory, members)


def row(run: RunDirectory, folder: Path) -> Row:
    """Where a run stands."""
    config, now = run.read_config(), status(run)
    lines, events = list(read_lines(run.metrics, step=int)), list(read_events(run))
    told = [event["steps"] for event in events if event["event"] in ("start", "resume") and isinstance(event.get("steps"), int)]
    steps = told[-1] if told else config.train.steps
    rate = _rate(lines)
    left = (steps - now.step) / rate if now.state == "RUNNING" and steps is not None and rate else None
    best_step, best = _best(config, lines)
    return Row(
        name=str(run.path.relative_to(folder)) if run.path.is_relative_to(folder) else str(run.path),
        state=now.state,
        step=now.step,
        steps=steps,
        rate=rate,
        left_s=left,
        metric=config.checkpoint.best,
        best=best,
        best_step=best_step,
        restarts=sum(event["event"] == "resume" for event in events),
        changed=max((number(line.get("time")) or 0.0 for line in [*lines[-1:], *events[-1:]]), default=None),
    )


def _rate(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Steps per second: the median over the last intervals between lines, which leaves out an evaluation or a stop in one."""
    marks = [(line["step"], number(line.get("time"))) for line in lines[-_RECENT - 1 :]]
    known = [(step, when) for step, when in marks if when is not None]
    rates = [(later - step) / (then - when) for (step, when), (later, then) in pairwise(known) if then > when and later > step]
    return statistics.median(rates) if rates else None


def _best(config: RunConfig, lines: Sequence[Mapping[str, Any]]) -> tuple[int | None, float | None]:
    """After which step the metric of `checkpoint.best` was best, and its value."""
    metric = config.checkpoint.best
    if metric is None:
        return None, None
    values = {line["step"]: value for line in lines if (value := number(line.get(metric))) is not None}
    step = best_of(values, metric, config.checkpoint.best_mode)
    return step, None if step is None else values[step]


# How `--sort` orders rows: by which value, and whether the largest comes first.
ORDERS: dict[str, tuple[Callable[[Row], Any], bool]] = {
    "name": (lambda row: row.name, False),
    "state": (lambda row: (row.state, row.name), False),
    "step": (lambda row: row.step, True),
    "rate": (lambda row: row.rate or 0.0, True),
    "left": (lambda row: float("inf") if row.left_s is None else row.left_s, False),
    "best": (lambda row: float("-inf") if row.best is None else row.best, True),
    "restarts": (lambda row: row.restarts, True),
    "changed": (lambda row: row.changed or 0.0, True),
}


def table(rows: Sequence[Row]) -> list[str]:
    """The lines of the table."""
    cells = [_HEAD, *(row.cells(time.time()) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    kept = [column for column, width in enumerate(widths) if any(line[column] for line in cells[1:])]
    return ["  ".join(_aligned(line[column], widths[column], column) for column in kept).rstrip() for line in cells]


def _aligned(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column in (0, 1, 6) else text.rjust(width)


def csv_lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    """The cells of a CSV file, its head first; empty where a value is unknown."""
    names = list(Row.__annotations__)
    yield names
    for one in rows:
        yield ["" if value is None else str(value) for value in (getattr(one, name) for name in names)]
