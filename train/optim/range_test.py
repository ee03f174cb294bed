"""The learning rate range test: Smith, Cyclical Learning Rates, WACV 2017 (arXiv:1506.01186), section 3.3. No torch here.

A run of its own whose learning rate rises exponentially; where its loss falls fastest over the rate's logarithm is a good peak
for a schedule, as fastai's finder suggests it.
"""

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from phalanx.configs.errors import UserError
from phalanx.dist.storage.json_lines import read_lines

_SETTINGS = [
    *("schedule.name=range_test", "schedule.warmup_steps=0", "schedule.warmup_epochs=null", "schedule.steps=null"),
    *("schedule.epochs=null", "schedule.warmup_momentum=null", "schedule.warmup_bias_lr=null", "schedule.options={}"),
    *("optim.lr_scaling=null", "optim.base_batch=null", "train.log_every=1", "train.eval_every=null", "train.patience=null"),
    *("train.swa_start=null", "checkpoint.every_steps=null", "checkpoint.every_minutes=null", "checkpoint.best=null"),
    *("track.wandb=off", "track.tensorboard=false", "track.own=[]"),
]
_SMOOTH = 0.9  # share of the old average in the smoothed loss
_DIVERGED = 4.0  # times the lowest smoothed loss: what comes after says nothing
_LINES = 15  # of a run that failed are shown


class Measured(NamedTuple):
    """The loss of a step, and its learning rate."""

    rate: float
    loss: float


class Suggestion(NamedTuple):
    """Where the loss falls fastest, where it is lowest, and its smoothed curve up to where it diverges."""

    steepest: float
    lowest: float
    smoothed: Sequence[Measured]


def range_test(
    arguments: Sequence[str], folder: Path, steps: int, first: float, last: float, processes: int | None
) -> list[Measured]:
    """Trains with a rising learning rate.

    Args:
        arguments: recipes and overrides, as of `phalanx train`.
        folder: for the run.
        first, last: learning rates.

    Raises:
        UserError: if no step was trained, with what the run said.
    """
    own = [f"optim.lr={last!r}", f"schedule.initial={first / last!r}", f"train.steps={steps}", "name=find-lr", f"runs={folder}"]
    command = [sys.executable, "-m", "phalanx.launch.main", "train", *arguments, *_SETTINGS, *own]
    command += ["--stop-at", str(steps - 1)]  # without the evaluation after the last step
    command += [] if processes is None else ["--nproc", str(processes)]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
    lines = read_lines(folder / "find-lr/metrics.jsonl", step=int)
    found = [Measured(line["train/lr"], line["train/loss"]) for line in lines if "train/loss" in line]
    found = [one for one in found if isinstance(one.loss, float) and math.isfinite(one.loss)]
    if len(found) < 3:  # a loss that is not finite ends the run, which is expected of the largest rates
        said = [line.removeprefix("phalanx: ") for line in ended.stderr.strip().splitlines()]
        raise UserError("\n".join(["the run failed:", *said[-_LINES:]]))
    return found


def suggestion(found: Sequence[Measured]) -> Suggestion:
    """What to take of a range test of at least three steps."""
    smoothed, average = list[Measured](), 0.0
    for number, one in enumerate(found, 1):
        average = _SMOOTH * average + (1 - _SMOOTH) * one.loss
        smoothed.append(Measured(one.rate, average / (1 - _SMOOTH**number)))
    lowest = min(range(len(smoothed)), key=lambda place: smoothed[place].loss)
    diverged = (place for place in range(lowest, len(smoothed)) if smoothed[place].loss > _DIVERGED * smoothed[lowest].loss)
    kept = smoothed[: next(diverged, len(smoothed))]
    slopes = [
        (after.loss - before.loss) / (math.log(after.rate) - math.log(before.rate))
        for before, after in zip(kept, kept[2:], strict=False)
    ]
    steepest = min(range(len(slopes)), key=slopes.__getitem__) + 1
    return Suggestion(kept[steepest].rate, smoothed[lowest].rate, kept)
