"""Which checkpoint a command's argument means: a run's newest, its best or a step; or a folder. No torch here."""

from dataclasses import dataclass
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint import directory, manifest, reader, retention
from phalanx.dist.checkpoint.tools.verify import verify
from phalanx.dist.storage.run_directory import RunDirectory


@dataclass(frozen=True)
class Chosen:
    """A valid checkpoint (or a file of weights), and (step, problem) of newer ones that were skipped."""

    path: Path
    skipped: tuple[tuple[int, str], ...] = ()


def run_at(text: str) -> RunDirectory:
    """The run in a folder.

    Raises:
        UserError: if there is none.
    """
    run = RunDirectory(Path(text))
    if not run.exists():
        raise UserError(f"{text}: there is no run here (no run.json). Give the run directory that `train` printed.")
    return run


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is a checkpoint, valid or broken."""
    return path.is_dir() and ((path / manifest.NAME).exists() or (path / "shards").is_dir())


def step_path(run: RunDirectory, step: int) -> Path:
    """The folder of a run's checkpoint, valid or not.

    Raises:
        UserError: if there is none, naming those that exist.
    """
    there = directory.steps(run.checkpoints)
    if step not in there:
        raise UserError(f"{run.path} has no checkpoint of step {step}. It has: {', '.join(map(str, there)) or 'none'}.")
    return directory.step_directory(run.checkpoints, step)


def newest_checkpoint(run: RunDirectory) -> Chosen:
    """A run's newest valid checkpoint.

    Raises:
        UserError: if there is none, with the problem of the newest one.
    """
    path, skipped = reader.newest_valid(run.checkpoints)
    if path is None:
        why = f"; step {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        remedy = "Restore one from a copy." if skipped else "Train it first."
        raise UserError(f"{run.path} has no intact checkpoint{why}. {remedy}")
    return Chosen(path, tuple(skipped))


def of_step(run: RunDirectory, step: int) -> Chosen:
    """A run's checkpoint of a step.

    Raises:
        UserError: if there is none, or it is broken.
    """
    return _verified(step_path(run, step), "Choose another step.")


def best(run: RunDirectory) -> Chosen:
    """A run's best checkpoint by the metric that its `checkpoint.best` names.

    Raises:
        UserError: if none is named, no checkpoint has it, or the best is broken.
    """
    settings = run.read_config().checkpoint
    if settings.best is None:
        raise UserError(
            f"{run.path}: there is no best checkpoint, as checkpoint.best is not set. Give --step N, or resume with "
            f"`phalanx resume {run.path} checkpoint.best=val/top1`."
        )
    step = retention.best(run.checkpoints, settings.best, settings.best_mode)
    if step is None:
        raise UserError(
            f"{run.path}: no checkpoint has the metric {settings.best} (checkpoint.best). Give --step N, or evaluate at the "
            "steps that are saved (train.eval_every, checkpoint.every_steps)."
        )
    return _verified(step_path(run, step), f"It is the best by {settings.best}; choose another with --step.")


def any_of(text: str) -> Chosen:
    """The checkpoint of a checkpoint's folder, a run directory (its newest), `RUN@STEP`, or a safetensors file.

    Raises:
        UserError: if it is none of these, or broken.
    """
    path = Path(text)
    if path.is_file():
        return Chosen(path)
    if path.is_dir():
        if RunDirectory(path).exists():
            return newest_checkpoint(RunDirectory(path))
        if is_checkpoint(path):
            return _verified(path, "Choose another one.")
        raise UserError(
            f"{text}: this folder is neither a run (no run.json) nor a checkpoint (no manifest.json). Check the path."
        )
    run, _, step = text.rpartition("@")
    if run and step.isdecimal() and Path(run).is_dir():
        return of_step(run_at(run), int(step))
    raise UserError(
        f"{text}: there is no such file or folder. Give a run directory, RUN@STEP, a checkpoint's folder or a safetensors file."
    )


def _verified(path: Path, remedy: str) -> Chosen:
    problems = verify(path).problems
    if problems:
        raise UserError(f"{path} is broken: {problems[0].sentence}. {remedy}")
    return Chosen(path)
