"""Phalanx from Python: `phalanx.fit`, `phalanx.load`, `phalanx.evaluate`, `phalanx.runs`. No torch here, but for `load`.

Training and evaluation run in processes of their own, as the commands do: a notebook stays free of process groups, and a
failed run takes nothing with it. What they print is printed here, line by line.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from phalanx.configs.errors import ExitCode, TrainingFailed, UserError
from phalanx.configs.load import load as load_recipe
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.storage.json_lines import read_lines
from phalanx.dist.storage.run_directory import RunDirectory, read_events

if TYPE_CHECKING:
    from torch import nn

Recipe = str | Path | Mapping[str, Any]
Overrides = Mapping[str, Any] | Sequence[str]
_KEPT_LINES = 40  # of what a command prints on standard error, for the exception


@dataclass(frozen=True)
class TrainedRun:
    """A run, as its directory has it.

    Attributes:
        path: the run directory.
    """

    path: Path

    @property
    def config(self) -> RunConfig:
        """The configuration that it was last started with."""
        return RunDirectory(self.path).read_config()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: `step`, and figures by name, such as `train/loss` and `val/top1`."""
        return list(read_lines(RunDirectory(self.path).metrics, step=int))

    @property
    def finished(self) -> bool:
        """Whether the last thing that happened to it is its end; a run that was stopped is resumed by `fit`."""
        names = [event["event"] for event in read_events(RunDirectory(self.path))]
        return bool(names) and names[-1] == "done"

    def load(self, best: bool = False, step: int | None = None) -> "nn.Module":
        """As `phalanx.load`."""
        return load(self.path, best, step)

    def evaluate(self, **how: Any) -> dict[str, Any]:
        """As `phalanx.evaluate`."""
        return evaluate(self.path, **how)


def fit(recipe: Recipe | Sequence[Recipe], overrides: Overrides = (), nproc: int | None = None) -> TrainedRun:
    """Trains a recipe, or resumes the run of its name, as `phalanx train` does.

    An interrupt (Ctrl-C, a notebook's stop button) lets the run finish its step and save; a second one ends it at once.

    Args:
        recipe: a file, or several, or a dictionary of sections with the run's `name`.
        overrides: `{"optim.lr": 0.1}`, or `["optim.lr=0.1"]`.
        nproc: number of ranks; None as `phalanx train` chooses it.

    Raises:
        UserError: on bad input, with the sentences that the command prints.
        TrainingFailed: if training fails, with its last lines.
    """
    with ExitStack() as stack:
        files = _files(recipe, stack)
        given = _overrides(overrides)
        config = load_recipe(files, given)
        processes = [] if nproc is None else ["--nproc", str(nproc)]
        _run(["train", *files, *given, *processes])
    return TrainedRun(RunDirectory.of(config).path)


def evaluate(
    run: str | Path,
    overrides: Overrides = (),
    *,
    best: bool = False,
    step: int | None = None,
    split: str | None = None,
    nproc: int | None = None,
) -> dict[str, Any]:
    """The metrics of a run's checkpoint, as `phalanx evaluate --json` prints them.

    Args:
        run: the run directory.
        overrides: keys of test-time augmentation and the like.
        best, step: the checkpoint; the newest by default.
        split: of the data; the recipe's validation split by default.
        nproc: number of ranks.

    Raises:
        UserError: on bad input.
        TrainingFailed: if the evaluation fails.
    """
    asked = [str(run), *_overrides(overrides), "--json", *(["--best"] if best else [])]
    options = {"--step": step, "--split": split, "--nproc": nproc}
    asked += [word for name, value in options.items() if value is not None for word in (name, str(value))]
    found: dict[str, Any] = json.loads(_run(["evaluate", *asked], shows=False)[-1])
    return found


def load(run: str | Path, best: bool = False, step: int | None = None) -> "nn.Module":
    """A trained network in evaluation mode: averaged weights where there are any, in the precision of the run.

    It takes images [B, C, H, W] as training gave them, and has three more attributes: `classes`, their names;
    `preprocess(image)`, from a file, a PIL image, an array [H, W] or [H, W, C], or a tensor [C, H, W] to the network's input
    [C, H, W]; and `predict(images)`, from one such image or a list of them to what `phalanx predict` writes for each.

    Args:
        run: the run directory; or a file that `phalanx checkpoint consolidate` wrote, with its JSON beside it.
        best: the best checkpoint by the run's `checkpoint.best`, instead of the newest.
        step: the checkpoint of this step.

    Raises:
        UserError: if there is no such run, checkpoint or file.
    """
    from phalanx.train.evaluation.loaded import loaded, loaded_file

    path = Path(run)
    if path.is_file():
        if best or step is not None:
            raise UserError(f"{path}: a file holds one network. Leave out best and step, or give the run directory.")
        return loaded_file(path)
    directory = choose.run_at(str(run))
    if best:
        chosen = choose.best(directory)
    else:
        chosen = choose.newest_checkpoint(directory) if step is None else choose.of_step(directory, step)
    return loaded(directory.read_config(), chosen.path)


class Runs(list[dict[str, Any]]):
    """Rows, one for each run."""

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` of the rows; pandas must be installed."""
        import pandas  # type: ignore[import-untyped]

        return pandas.DataFrame(list(self))


def runs(folder: str | Path = "runs") -> Runs:
    """All runs below a folder, the newest last: `name`, `path`, `state`, `step`, `checkpoint`, and the last figures by name.

    Raises:
        UserError: if there is no such folder.
    """
    from phalanx.slurm.status import status

    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: there is no such folder. Give the folder of the run directories.")
    found = sorted((file.stat().st_ctime, file.parent) for file in root.rglob("run.json") if file.is_file())
    rows = Runs()
    for _, path in found:
        now = status(RunDirectory(path))
        facts = {"name": path.name, "path": str(path), "state": now.state, "step": now.step, "checkpoint": now.checkpoint}
        rows.append(facts | now.metrics)
    return rows


def _files(recipe: Recipe | Sequence[Recipe], stack: ExitStack) -> list[str]:
    """Files of recipes; a dictionary becomes one for as long as the stack is open."""
    several = recipe if isinstance(recipe, Sequence) and not isinstance(recipe, str) else [recipe]
    files = []
    for one in several:
        if not isinstance(one, Mapping):
            files.append(str(one))
            continue
        if "name" not in one:
            raise UserError("the recipe is a dictionary without a name. Give the run one: {'name': ..., ...}.")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="phalanx-"))
        files.append(f"{folder}/recipe.yaml")
        Path(files[-1]).write_text(yaml.safe_dump(json.loads(json.dumps(dict(one)))))
    return files


def _overrides(given: Overrides) -> list[str]:
    if not isinstance(given, Mapping):
        return list(given)
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()]


def _run(arguments: Sequence[str], shows: bool = True) -> list[str]:
    """Runs a command to its end, and shows what it prints; returns the lines of its standard output.

    Raises:
        UserError: for exit code 2.
        TrainingFailed: for exit code 1.
    """
    command = [sys.executable, "-u", "-m", "phalanx.launch.main", *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stderr is not None
    errors: deque[str] = deque(maxlen=_KEPT_LINES)
    lines: list[str] = []
    reading = [
        threading.Thread(target=_read, args=(process.stdout, lines, sys.stdout if shows else None), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, errors, sys.stderr), daemon=True),
    ]
    for thread in reading:
        thread.start()
    code = _wait(process)
    for thread in reading:
        thread.join()
    said = "\n".join(line.removeprefix("phalanx: ") for line in errors)
    if code == ExitCode.BAD_INPUT:
        raise UserError(said)
    if code not in (ExitCode.DONE, ExitCode.STOPPED_EARLY):
        raise TrainingFailed(said or f"phalanx {arguments[0]} ended with exit code {code}")
    return lines


def _wait(process: "subprocess.Popen[str]") -> int:
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # Its own session does not get the terminal's; a second one ends it at once, as on a terminal.
            os.killpg(process.pid, signal.SIGINT)


def _read(stream: IO[str], kept: "deque[str] | list[str]", shown: Any) -> None:
    with stream:
        for line in stream:
            kept.append(line.rstrip("\n"))
            if shown is not None:
                print(line, end="", file=shown, flush=True)
