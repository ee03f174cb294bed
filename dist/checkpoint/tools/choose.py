"""Which checkpoint a person means: of a run the newest, the best or a step; or a folder itself. No torch here."""

from dataclasses import dataclass
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint import directory, manifest, reader, retention
from phalanx.dist.checkpoint.tools.verify import verify
from phalanx.dist.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Chosen:
    """A whole checkpoint (or a file of weights), and (step, problem) of newer ones that were passed over for it."""

    path: Path
    passed_over: tuple[tuple[int, str], ...] = ()


def run_at(text: str) -> RunDirectory:
    """The run in a folder.

    Raises:
        UserError: where there is none.
    """
    run = RunDirectory(Path(text))
    if not run.exists():
        raise UserError(f"{text}: there is no run here (no run.json). Give the run directory that `train` printed.")
    return run


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is meant to be a checkpoint, be it broken."""
    return path.is_dir() and ((path / manifest.NAME).exists() or (path / "shards").is_dir())


def step_path(run: RunDirectory, step: int) -> Path:
    """The folder of a run's checkpoint, whole or not.

    Raises:
        UserError: where there is none, naming those there are.
    """
    there = directory.steps(run.checkpoints)
    if step not in there:
        raise UserError(f"{run.path} has no checkpoint of step {step}. There are: {', '.join(map(str, there)) or 'none'}.")
    return directory.step_directory(run.checkpoints, step)


def newest_checkpoint(run: RunDirectory) -> Chosen:
    """A run's newest checkpoint that is whole.

    Raises:
        UserError: where there is none, saying what is wrong with the newest there is.
    """
    path, passed_over = reader.newest_valid(run.checkpoints)
    if path is None:
        why = f"; step {passed_over[0][0]}: {passed_over[0][1]}" if passed_over else ""
        remedy = "Restore one from a copy." if passed_over else "Train it first."
        raise UserError(f"{run.path} has no whole checkpoint{why}. {remedy}")
    return Chosen(path, tuple(passed_over))


def of_step(run: RunDirectory, step: int) -> Chosen:
    """A run's checkpoint of a step.

    Raises:
        UserError: where there is none, or it is not whole.
    """
    return _whole(step_path(run, step), "Choose another step.")


def best(run: RunDirectory) -> Chosen:
    """A run's best checkpoint by the metric that its `checkpoint.best` names.

    Raises:
        UserError: where none is named, no checkpoint has it, or the best is not whole.
    """
    settings = run.read_config().checkpoint
    if settings.best is None:
        raise UserError(
            f"{run.path}: there is no best checkpoint, as checkpoint.best is not set. Give --step N, or go on with "
            f"`phalanx resume {run.path} checkpoint.best=val/top1`."
        )
    step = retention.best(run.checkpoints, settings.best, settings.best_mode)
    if step is None:
        raise UserError(
            f"{run.path}: no checkpoint has the metric {settings.best} (checkpoint.best). Give --step N, or evaluate at the "
            "steps that are saved (train.eval_every, checkpoint.every_steps)."
        )
    return _whole(step_path(run, step), f"It is the best by {settings.best}; choose another with --step.")


def any_of(text: str) -> Chosen:
    """What a checkpoint's folder, a run directory (its newest), `RUN@STEP` or a safetensors file means.

    Raises:
        UserError: where it is none of these, or not whole.
    """
    path = Path(text)
    if path.is_file():
        return Chosen(path)
    if path.is_dir():
        if RunDirectory(path).exists():
            return newest_checkpoint(RunDirectory(path))
        if is_checkpoint(path):
            return _whole(path, "Choose another one.")
        raise UserError(
            f"{text}: this folder is neither a run (no run.json) nor a checkpoint (no manifest.json). Check the path."
        )
    run, _, step = text.rpartition("@")
    if run and step.isdecimal() and Path(run).is_dir():
        return of_step(run_at(run), int(step))
    raise UserError(
        f"{text}: there is nothing of that name. Give a run directory, RUN@STEP, a checkpoint's folder or a safetensors file."
    )


def _whole(path: Path, remedy: str) -> Chosen:
    problems = verify(path).problems
    if problems:
        raise UserError(f"{path} is not whole: {problems[0].sentence}. {remedy}")
    return Chosen(path)
