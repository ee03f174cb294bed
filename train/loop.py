"""The loop: one, for every task, top to bottom."""

from collections.abc import Sequence

from phalanx.configs.errors import ExitCode
from phalanx.data.loading.loader import Batch
from phalanx.dist import heartbeat
from phalanx.dist.step.step_metrics import StepFigures
from phalanx.train.run import Run


def train(run: Run) -> ExitCode:
    """Trains until the recipe's last step, until early stopping, or until asked to stop."""
    state, engine, task = run.state, run.engine, run.task
    run.catch_up()  # a kill after a save may have left its evaluation undone
    if run.best.should_stop:
        return run.done()
    heartbeat.beat("loading", state.step + 1)
    for batch in run.clock.batches(run.loader.from_step(state.step, run.last_step)):
        run.before_step()
        # From the targets only: the ranks sum the losses' weights while the first forward runs.
        weights = [task.weights(micro_batch) for micro_batch in batch.micro_batches]
        # One rank's signal or clock; the ranks agree in this step's message, and all act after the same step.
        flags = {"stop": run.asked_to_stop, "save": run.is_time_to_save}
        for phase in engine.phases(state.step):  # one, unless the task has several, as a GAN has
            for own in engine.micro_batches(state.step, batch.micro_batches, weights, **flags):
                engine.backward(engine.losses(phase.losses, own))
            # A save in flight may still copy weights and optimizer state, which the update changes.
            run.saver.wait_for_copy()
            # Of earlier steps: a step's figures reach all ranks with a later message, so that no host waits for its device.
            figures = engine.step()
        if (code := after_step(run, batch, figures)) is not None:
            return code
        heartbeat.beat("loading", state.step + 1)
    return run.done()


def after_step(run: Run, batch: Batch, figures: Sequence[StepFigures]) -> ExitCode | None:
    """Logs, saves and evaluates as is due; returns the exit code if the run ends after this step before its last.

    Args:
        batch: this rank's part of the step.
        figures: of earlier steps, as `Engine.step` returned them.
    """
    state, engine = run.state, run.engine
    state.advance(batch.samples)
    run.ledger.write(state.step, batch)
    run.log(figures)
    run.look_after_saves()

    last = state.step == run.last_step
    stopping = engine.stop_agreed or (state.step == run.stop_at and not last)
    if run.due.checkpoint(state.step) or engine.save_agreed or stopping:
        run.save(awaited=stopping or last)  # before an evaluation, which may fail
    if run.due.evaluation(state.step) and not stopping:
        run.evaluate()
    # A new best value is saved with its metrics, even between two regular checkpoints.
    if run.improved or run.best.should_stop:
        run.save(awaited=run.best.should_stop)
    if run.best.should_stop:
        return run.done()
    return run.stopped() if stopping else None
