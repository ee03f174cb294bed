"""Which checkpoints are kept: the newest, every Nth, and the best by a metric. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from phalanx.dist.checkpoint import directory, manifest
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint


@dataclass(frozen=True)
class Retention:
    """The policy on which checkpoints are kept.

    Attributes:
        keep: number of newest ones.
        keep_every: steps that are multiples of it; None for none.
        best: the metric whose best is kept; None for none.
        mode: auto, max or min.
    """

    keep: int
    keep_every: int | None = None
    best: str | None = None
    mode: str = "auto"


def is_better(metric: str, mode: str, value: float, other: float) -> bool:
    """Whether a value of a metric is better than another; losses and errors are better when smaller. NaN never is."""
    return value == value and (other != other or (value > other if larger_is_better(metric, mode) else value < other))


def larger_is_better(metric: str, mode: str) -> bool:
    return mode == "max" or (mode == "auto" and not any(word in metric for word in ("loss", "error")))


def best_of(values: Mapping[int, float], metric: str, mode: str) -> int | None:
    """The step with the best value, the earliest of equals."""
    best = None
    for step in sorted(values):
        if values[step] == values[step] and (best is None or is_better(metric, mode, values[step], values[best])):
            best = step
    return best


def superseded(steps: Sequence[int], values: Mapping[int, float], policy: Retention) -> list[int]:
    """The steps that need not be kept.

    Args:
        steps: steps of all checkpoints, oldest first.
        values: the metric's values by step, where known.
    """
    kept = set(steps[-policy.keep :])
    if policy.keep_every is not None:
        kept |= {step for step in steps if step % policy.keep_every == 0}
    if policy.best is not None:
        kept |= {best_of(values, policy.best, policy.mode)} - {None}  # type: ignore[arg-type]
    return [step for step in steps if step not in kept]


def prune(checkpoints: Path, policy: Retention) -> list[str]:
    """Removes superseded checkpoints, after a newer one was committed; returns the reasons for those left in place.

    Raises:
        OSError: if the folder cannot be read.
    """
    left = directory.clear(checkpoints)
    steps = directory.steps(checkpoints)
    gone = superseded(steps, measured(checkpoints, policy.best) if policy.best else {}, policy)
    return left + [problem for step in gone if (problem := directory.remove(checkpoints, step)) is not None]


def measured(checkpoints: Path, metric: str) -> dict[int, float]:
    """The metric of every checkpoint that has it."""
    found = {}
    for step in directory.steps(checkpoints):
        value = _metrics(directory.step_directory(checkpoints, step)).get(metric)
        if value is not None:
            found[step] = value
    return found


def best(checkpoints: Path, metric: str, mode: str) -> int | None:
    """The step of the best checkpoint; None if none has the metric."""
    return best_of(measured(checkpoints, metric), metric, mode)


def _metrics(checkpoint: Path) -> Mapping[str, float]:
    try:
        changed = (checkpoint / manifest.NAME).stat().st_mtime_ns
    except OSError:
        return {}
    return _read(checkpoint, changed)


@lru_cache(maxsize=4096)
def _read(checkpoint: Path, changed: int) -> Mapping[str, float]:
    """Cached, since manifests may be long and all are read after every save."""
    try:
        return manifest.read(checkpoint).metrics
    except (BrokenCheckpoint, OSError):
        return {}
