"""From command line arguments to a configuration, the same for the command and for the ranks. No torch here."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.load import differences, filled, load, split_arguments
from phalanx.configs.schema import RunConfig
from phalanx.configs.statement import shown
from phalanx.dist.checkpoint.directory import steps
from phalanx.dist.run_directory import RunDirectory


class Parser(argparse.ArgumentParser):
    """argparse, whose refusals are in the manner of all others."""

    def error(self, message: str) -> "NoReturn":  # type: ignore[name-defined]  # noqa: F821
        raise UserError(f"{message}. `{self.prog} --help` says what is allowed.")


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="*", metavar="CONFIG.yaml | key=value", help="later ones win")


def add_stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stop-at", type=_positive, metavar="STEP", help="save at this step and end with exit code 75")


def add_nproc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nproc", type=_positive, metavar="N", help="processes to start here (default: one a GPU, else one)")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def recipe(arguments: Sequence[str]) -> RunConfig:
    """A configuration from files and overrides.

    Raises:
        UserError: where there is no file, or anything is wrong in them.
    """
    files, overrides = split_arguments(arguments)
    if not files:
        raise UserError("no CONFIG.yaml was given. Name at least one, such as configs/recipes/digits_resnet18.yaml.")
    return load(files, overrides)


def said_elsewhere(arguments: Sequence[str], resume: str | None) -> list[str]:
    """Sentences about the keys that the user's accelerate config or DeepSpeed file filled."""
    base = RunDirectory(Path(resume)).read_config().model_dump(mode="json") if resume else None
    statements = filled(*split_arguments(arguments), base)
    return [f"{said.key}={shown(said.value)} is from {said.origin} ({said.written})" for said in statements]


def resumed(path: str, arguments: Sequence[str]) -> RunConfig:
    """The configuration of a run that is there, with overrides that leave its experiment as it is.

    Raises:
        UserError: where there is no run, no checkpoint, or an override would make another experiment.
    """
    run = RunDirectory(Path(path))
    stored = run.read_config()
    if not steps(run.checkpoints):
        raise UserError(f"{path} has no checkpoint to go on from. Start it with `phalanx train`.")
    files, overrides = split_arguments(arguments)
    config = load(files, overrides, base=stored.model_dump(mode="json"))
    changed = differences(stored, config, ["experiment"])
    if changed:
        listed = ", ".join(f"{key} (there {old}, here {new})" for key, old, new in changed)
        raise UserError(f"{path}: another experiment is not a resume: {listed}. Leave that out, or train under another name.")
    return config.model_copy(update={"runs": stored.runs, "name": stored.name})
