"""One way to make a `Run`, for `phalanx train`, benchmarks and tests alike."""

from phalanx.configs.schema import CheckpointConfig, RunConfig
from phalanx.dist.checkpoint.retention import Retention
from phalanx.dist.checkpoint.saver import Saver
from phalanx.dist.ownership.run_owner import RunOwner
from phalanx.dist.processes.stop import StopRequest
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.early_stopping import Best
from phalanx.train.evaluation.evaluation_record import EvaluationRecord
from phalanx.train.evaluation.network_health import HealthWarnings
from phalanx.train.run import Due, Run
from phalanx.train.setup.build import Parts
from phalanx.train.setup.data_check import SkippedSamples
from phalanx.train.state import TrainState
from phalanx.train.tracking.ledger import Ledger
from phalanx.train.tracking.step_clock import StepClock
from phalanx.train.tracking.tracker import Tracker


def make_run(
    config: RunConfig,
    directory: RunDirectory,
    parts: Parts,
    stop: StopRequest,
    owner: RunOwner,
    *,
    state: TrainState | None = None,
    tracker: Tracker | None = None,
    best: Best | None = None,
    evaluated: bool = False,
    stop_at: int | None = None,
) -> Run:
    """A run for `phalanx.train.loop.train`. Its directory exists, and its engine is warmed up.

    A new run needs only the first arguments; a resumed one also its restored state.

    Args:
        owner: the claim to the run directory.
        state: the run's position.
        tracker: an open one, if it was used before.
        best: from earlier evaluations.
        evaluated: whether this step's checkpoint holds its evaluation.
        stop_at: step to save and stop at.
    """
    engine, keeping = parts.engine, config.checkpoint
    world = engine.world
    state = state or TrainState()
    tracker = tracker or Tracker(config, directory, world.ranks, state.step, parts.last_step)
    return Run(
        config=config,
        directory=directory,
        state=state,
        engine=engine,
        task=parts.task,
        loader=parts.loader,
        evaluation=parts.evaluation,
        stream=parts.stream,
        tracker=tracker,
        ledger=Ledger(directory.ledger, world.ranks, config.data.ledger),
        stop=stop,
        owner=owner,
        due=Due.of(config, parts.last_step, len(parts.training)),
        last_step=parts.last_step,
        stop_at=stop_at,
        saver=Saver(world, directory.checkpoints, _retention(keeping), keeping.asynchronous, owner.problem),
        saved=state.step,
        evaluated=evaluated,
        skipped_samples=SkippedSamples(parts.training, world),
        best=best or Best(keeping, config.train.patience),
        health=HealthWarnings(parts.data_info.classes),
        clock=StepClock(state.step, config.train.global_batch, parts.stream.samples, world.device),
        record=EvaluationRecord(config, directory, parts.evaluation, parts.task, world, tracker.progress.say),
        plateau=parts.plateau,
    )


def _retention(config: CheckpointConfig) -> Retention:
    return Retention(config.keep, config.keep_every, config.best, config.best_mode)
