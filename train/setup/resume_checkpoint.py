"""Resuming from a checkpoint: the newest valid one, under any strategy."""

from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig, digest
from phalanx.dist.checkpoint import directory, manifest
from phalanx.dist.checkpoint import restore as checkpoints
from phalanx.dist.checkpoint.manifest import Manifest
from phalanx.dist.checkpoint.reader import threads
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.comm.collectives import broadcast_object, run_and_agree, run_on_main
from phalanx.dist.engine import Engine
from phalanx.dist.storage.run_directory import RunDirectory

SkippedCheckpoints = list[tuple[int, str]]


def checkpoint_to_resume(run: RunDirectory, engine: Engine, config: RunConfig) -> tuple[Manifest | None, SkippedCheckpoints]:
    """The newest valid checkpoint's manifest, and the skipped broken ones. Changes nothing. All ranks call together.

    Raises:
        UserError: if there are checkpoints but none is valid, or the newest is another experiment's.
    """
    path, skipped = checkpoints.newest_valid_on_all(engine.world, run.checkpoints)
    if path is None and skipped:
        step, problem = skipped[0]
        raise UserError(
            f"{run.checkpoints}: none of {len(skipped)} checkpoints is intact; step {step}: {problem}. "
            "Restore one from a copy, or move the run directory away to start again.",
            shared=True,
        )
    if path is None:
        return None, skipped
    return _of(path, config), skipped


def chosen(run: RunDirectory, engine: Engine, config: RunConfig, step: int | None, best: bool) -> Manifest:
    """The manifest of a valid checkpoint: of a step, the best, or else the newest. Changes nothing. All ranks call together.

    Raises:
        UserError: if there is none, it is broken, or it is another experiment's.
    """
    if step is None and not best:
        stored, _ = checkpoint_to_resume(run, engine, config)
        if stored is None:
            raise UserError(f"{run.path} has no checkpoint. Train it first.", shared=True)
        return stored

    def choose_one() -> str | None:
        if not engine.world.ranks.is_main:
            return None
        return str((choose.best(run) if best else choose.of_step(run, step or 0)).path)

    path = run_and_agree(engine.world, choose_one)
    return _of(Path(broadcast_object(engine.world, path)), config)


def _of(path: Path, config: RunConfig) -> Manifest:
    stored = manifest.read(path)
    if stored.experiment != digest(config):
        raise UserError(
            f"{path} was written by another experiment ({stored.experiment}, this is {digest(config)}). "
            "Restore the old config.yaml, or start under another name.",
            shared=True,
        )
    return stored


def fill(run: RunDirectory, engine: Engine, stored: Manifest) -> None:
    """Loads the model, its statistics, and the optimizer if its state was allocated."""
    workers = threads(engine.world.ranks.local_world)
    checkpoints.restore(directory.step_directory(run.checkpoints, stored.step), stored, engine.entries(), workers)
    engine.after_load()


def set_aside(run: RunDirectory, engine: Engine, skipped: SkippedCheckpoints) -> None:
    """Renames broken newer checkpoints, so that they no longer count."""
    run_on_main(engine.world, lambda: [directory.set_aside(run.checkpoints, step) for step, _ in skipped])
