"""From command line arguments to a configuration, the same for the command and for the ranks. No torch here."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from phalanx.configs import credentials
from phalanx.configs.errors import UserError
from phalanx.configs.launchers.statement import shown
from phalanx.configs.load import differences, filled, load, split_arguments
from phalanx.configs.messages import nearest
from phalanx.configs.schema import RunConfig
from phalanx.configs.sections.section import RunName
from phalanx.dist.checkpoint.directory import steps
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.checkpoint.tools.fork import refuse
from phalanx.dist.processes.output import QUIET
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.examples import EXAMPLES


class _Help(argparse.HelpFormatter):
    """Wraps everything but the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLES) else super()._fill_text(text, width, indent)


_EXAMPLES = "examples:\n"


class Parser(argparse.ArgumentParser):
    """argparse with `UserError` for refusals, and examples at the end of the help."""

    def __init__(self, prog: str, description: str | None):
        examples = EXAMPLES.get(prog, ())
        epilog = _EXAMPLES + "\n".join(f"  {line}" for line in examples) if examples else None
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=_Help)

    def error(self, message: str) -> "NoReturn":  # type: ignore[name-defined]  # noqa: F821
        if credentials.found(message):
            message = "there is an unknown argument (not shown: it holds a key)"
        hint = nearest.override(message.removeprefix("unrecognized arguments: "))
        raise UserError(f"{message}. See `{self.prog} --help`.{hint}")


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", nargs="*", metavar="CONFIG.yaml | key=value", help="recipes, cluster files and overrides; later ones win"
    )


def add_stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stop-at", type=positive, metavar="STEP", help="save at this step and end with exit code 75")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print only what needs attention; the run directory has the rest")


def be_quiet(given: argparse.Namespace) -> None:
    """Tells the ranks, which this process starts or is."""
    if given.quiet:
        os.environ[QUIET] = "1"


def add_nproc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nproc", type=positive, metavar="N", help="processes to start here (default: one per GPU, or one)")


def add_which(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, metavar="N", help="the checkpoint of this step (default: the newest intact one)")
    which.add_argument("--best", action="store_true", help="the best checkpoint by the run's checkpoint.best")


def asked_checkpoint(run: RunDirectory, given: argparse.Namespace) -> Path:
    """The checkpoint that `add_which` was given; reports newer ones that were skipped.

    Raises:
        UserError: if there is none.
    """
    if given.best:
        chosen = choose.best(run)
    elif given.step is not None:
        chosen = choose.of_step(run, given.step)
    else:
        chosen = choose.newest_checkpoint(run)
    for step, problem in chosen.skipped:
        print(f"phalanx: the checkpoint of step {step} was skipped: {problem}", file=sys.stderr)
    return chosen.path


def add_asked(parser: argparse.ArgumentParser) -> None:
    """What `evaluate` takes, the command and its ranks alike."""
    add_which(parser)
    parser.add_argument(
        "--also",
        nargs="+",
        action="extend",
        default=[],
        metavar="RUN",
        help="an ensemble with these, by the mean of probabilities: runs, RUN@STEP, checkpoints, files of weights",
    )
    parser.add_argument("--split", metavar="NAME", help="evaluate this split of the data (default: data.val_split)")
    parser.add_argument("--results", metavar="FILE.json", help="write the detections in COCO's results format")
    parser.add_argument("--json", action="store_true", help="print JSON, with one row per class and the confusion matrix")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def recipe(arguments: Sequence[str]) -> RunConfig:
    """A configuration from files and overrides.

    Raises:
        UserError: if there is no file, or a file has an error.
    """
    files, overrides = split_arguments(arguments)
    if not files:
        raise UserError("no CONFIG.yaml was given. Name at least one, such as configs/recipes/digits_resnet18.yaml.")
    return load(files, overrides)


def set_elsewhere(arguments: Sequence[str], resume: str | None) -> list[str]:
    """Messages on the keys set by the user's accelerate config or DeepSpeed file."""
    base = RunDirectory(Path(resume)).read_config().model_dump(mode="json") if resume else None
    statements = filled(*split_arguments(arguments), base)
    return [f"{said.key}={shown(said.value)} is from {said.origin} ({said.written})" for said in statements]


def resumed(path: str, arguments: Sequence[str]) -> RunConfig:
    """The configuration of an existing run, with overrides that do not change its experiment.

    Raises:
        UserError: if there is no run, no checkpoint, or an override would make another experiment.
    """
    stored, config = _changed(path, arguments)
    changed = differences(stored, config, ["experiment"])
    if changed:
        listed = ", ".join(f"{key} (there {old}, here {new})" for key, old, new in changed)
        raise UserError(
            f"{path}: another experiment is not a resume: {listed}. Leave that out, train under another name, or start a "
            f"new run from this checkpoint with `phalanx resume {path} ... --fork NAME`."
        )
    return config.model_copy(update={"runs": stored.runs, "name": stored.name})


def forked(path: str, arguments: Sequence[str], name: str) -> RunConfig:
    """The configuration of a fork: a new run that resumes an existing run's checkpoint; any key may be overridden.

    Raises:
        UserError: if there is no run or no checkpoint, the name is invalid, or the checkpoint would not fit.
    """
    try:
        TypeAdapter(RunName).validate_python(name)
    except ValidationError as error:
        wanted = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"--fork {name!r} is not allowed; wanted: {wanted}.") from None
    stored, config = _changed(path, arguments)
    refuse(RunDirectory(Path(path)), stored, config)
    return config.model_copy(update={"runs": str(_parent(Path(path))), "name": name})


def _changed(path: str, arguments: Sequence[str]) -> tuple[RunConfig, RunConfig]:
    """The configuration of an existing run, without and with overrides."""
    run = RunDirectory(Path(path))
    stored = run.read_config()
    if not steps(run.checkpoints):
        raise UserError(f"{path} has no checkpoint to resume from. Start it with `phalanx train`.")
    files, overrides = split_arguments(arguments)
    return stored, load(files, overrides, base=stored.model_dump(mode="json"))


def _parent(run: Path) -> Path:
    """The parent of a run directory, also if that is given as `.`."""
    return run.parent if run.name not in ("", "..") else run.resolve().parent
