"""A run that has nothing left to do: the messages on it, and on what a command would change. Its directory is unchanged."""

from phalanx.configs.launchers.statement import shown
from phalanx.configs.load import differences
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint.manifest import Manifest
from phalanx.dist.storage.run_directory import RunDirectory, read_events
from phalanx.train.early_stopping import Best
from phalanx.train.run import Due


def is_evaluated(stored: Manifest, due: Due, best: Best) -> bool:
    """Whether the evaluation after a checkpoint's step was done, if it was due."""
    has_best = best.config.best is None or best.evaluated >= stored.step
    return not due.evaluation(stored.step) or (bool(stored.metrics) and has_best)


def why_over(stored: Manifest, due: Due, best: Best) -> str | None:
    """Why there is nothing left to do after a checkpoint; None if there is."""
    if not is_evaluated(stored, due, best):
        return None
    if stored.step > due.last_step:
        return (
            f"the run is at step {stored.step} already, past its {due.last_step} steps: nothing to do. "
            "Raise train.steps or train.epochs to train further"
        )
    if stored.step == due.last_step:
        return f"all {due.last_step} steps are done; raise train.steps or train.epochs to train further"
    if best.should_stop:
        return f"stopped early at step {stored.step}: {best}; raise train.patience to train further"
    return None


def changes(before: RunConfig, config: RunConfig, *tags: str) -> str | None:
    """`train.steps=63 (125 in config.yaml), ...`; None if nothing differs. The run's location does not count."""
    changed = [c for c in differences(before, config, tags) if c[0] not in ("name", "runs")]
    return ", ".join(f"{key}={shown(new)} ({shown(old)} in config.yaml)" for key, old, new in changed) or None


def is_settled(run: RunDirectory) -> bool:
    """Whether the last attempt finished without losing a tracker, which a later attempt would repair."""
    attempt: list[object] = []
    for event in read_events(run):
        attempt = [] if event.get("event") in ("start", "resume") else [*attempt, event.get("event")]
    return "done" in attempt and "tracking_lost" not in attempt
