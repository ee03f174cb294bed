"""Whether a recipe gives the same bits on any number of ranks: it is run on several, and every checkpoint is compared.

Each run is a `phalanx train` of its own with a checkpoint after every step. One more is killed with `kill -9` half way, and
resumed on another number of ranks.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint.directory import remove, step_directory, steps
from phalanx.dist.checkpoint.tools.compare import Comparison, compare
from phalanx.dist.checkpoint.tools.sources import open_both
from phalanx.dist.processes.children import die_with_parent
from phalanx.dist.processes.environment import without_ranks

SETTINGS = [
    *("checkpoint.every_steps=1", "checkpoint.every_minutes=null", "checkpoint.keep_every=1", "checkpoint.best=null"),
    *("train.eval_every=null", "train.patience=null", "track.wandb=off", "track.tensorboard=false", "track.own=[]"),
]
_LINES = 15  # of a run that failed are shown
_ENDED = (ExitCode.DONE, ExitCode.STOPPED_EARLY)


@dataclass(frozen=True)
class RunComparison:
    """How a run compares with the first one.

    Attributes:
        label: the numbers of ranks.
        equal: up to the last step.
        sentence: what differs first, and where.
    """

    label: str
    equal: bool
    sentence: str


class ExactnessCheck:
    """The runs of a check, in a folder of their own.

    Args:
        arguments: recipes and overrides, as of `phalanx train`.
        config: the configuration that they give.
        length: number of steps.

    Raises:
        UserError: if a run fails, with what it said.
    """

    def __init__(self, arguments: Sequence[str], ranks: Sequence[int], length: int, folder: Path):
        self._arguments, self._ranks, self._length, self._folder = arguments, ranks, length, folder

    def run(self) -> Iterator[RunComparison]:
        """Runs one after another, and compares each with the first."""
        first, *others = self._ranks
        self._train("first", first)
        self._length = max(steps(self._folder / "first/checkpoints"))  # less, if the recipe is shorter
        yield RunComparison(_ranks(first), True, f"{self._length} steps, with which the others are compared")
        for number in others:
            self._train(f"ranks-{number}", number)
            yield self._compared(f"ranks-{number}", _ranks(number))
        before, half = self._ranks[-1], self._length // 2
        if half:
            self._train("killed", before, kill_after=half)
            checkpoints = self._folder / "killed/checkpoints"
            for step in steps(checkpoints):
                if step > half:  # it was quicker than the signal
                    remove(checkpoints, step)
            self._train("killed", first)
            yield self._compared("killed", f"{before}, killed, then {first}")

    def again(self) -> RunComparison:
        """The first run once more, on as many ranks: it differs only where a kernel is not deterministic."""
        self._train("again", self._ranks[0])
        return self._compared("again", f"{_ranks(self._ranks[0])} again")

    def _train(self, name: str, count: int, kill_after: int | None = None) -> None:
        overrides = [f"name={name}", f"runs={self._folder}", *SETTINGS]
        command = [sys.executable, "-m", "phalanx.launch.main", "train", *self._arguments, *overrides]
        command += ["--nproc", str(count), "--stop-at", str(self._length)]
        parent, output = os.getpid(), self._folder / f"{name}.log"
        with open(output, "ab") as log:
            process = subprocess.Popen(
                command,
                env=without_ranks(os.environ),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),
            )
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if kill_after is not None and len(steps(self._folder / name / "checkpoints")) >= kill_after:
                    break
        finally:
            _kill(process)  # its ranks die with it
        if process.returncode not in _ENDED and process.returncode != -signal.SIGKILL:
            said = [line.removeprefix("phalanx: ") for line in output.read_text(errors="replace").strip().splitlines()]
            raise UserError("\n".join([f"the run on {_ranks(count)} failed:", *said[-_LINES:]]))

    def _compared(self, name: str, label: str) -> RunComparison:
        for step in range(1, self._length + 1):
            paths = [step_directory(self._folder / run / "checkpoints", step) for run in ("first", name)]
            with open_both(*paths) as (a, b):
                order, found = list(a.tensors), compare(a, b)
            if not found.equal:
                return RunComparison(label, False, f"step {step}: {_where(found, order)}")
        return RunComparison(label, True, f"equal to the last bit in {self._length} steps")


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ranks(number: int) -> str:
    return "1 rank" if number == 1 else f"{number} ranks"


def _where(found: Comparison, order: Sequence[str]) -> str:
    """What differs first. A forward goes from the first layer to the last, and BatchNorm's statistics come of it."""
    if not found.differing:
        return f"{', '.join([*(name for name, _, _ in found.differing_scalars), *found.only_a, *found.only_b][:3])} differ"
    places = {name: place for place, name in enumerate(order)}
    statistics = [d for d in found.differing if "running_" in d.name]
    first = min(statistics or found.differing, key=lambda d: places.get(d.name, len(places)))
    layer = first.name.partition("@")[0].rpartition(".")[0] or first.name
    since = (
        f"the forward differs up to the BatchNorm layer {layer}"
        if statistics
        else f"the gradients or the update of {layer} differ"
    )
    more = f", and {len(found.differing) - 1} more of {found.tensors} tensors" if len(found.differing) > 1 else ""
    return f"{since}: {first.name} by {first.largest:.2g}, in {first.elements} of {first.of} elements{more}"


@contextmanager
def folder_for(config: RunConfig, keep: bool) -> Iterator[Path]:
    """A new folder beside the runs."""
    path = Path(config.runs).absolute() / f"{config.name}-verify-exact"
    if path.exists():
        raise UserError(f"{path} is there already, from an earlier check. Remove it, or set another name=.")
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


def reason(config: RunConfig, again: RunComparison | None) -> str:
    """Why the runs differ, as far as it can be told."""
    if again is not None and not again.equal:
        return (
            f"The same run on the same ranks differs too ({again.sentence}): an operation is not deterministic. "
            "Set train.deterministic=true, which names it, or replace it."
        )
    if config.dist.reduce == "fast":
        return "dist.reduce=fast sums in an order that depends on the ranks. Set dist.reduce=exact."
    return (
        "The same run on the same ranks is equal, so something depends on the ranks: a buffer that forwards change, state that "
        "the code keeps between batches, or an operation over more than a micro-batch."
    )
