"""A run in progress: what the loop does besides training: log, evaluate, save, end."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial

from phalanx.configs.errors import ExitCode, RunLost, TrainingFailed
from phalanx.configs.schema import RunConfig, digest
from phalanx.data.loading.loader import EvaluationLoader, Loader
from phalanx.dist import heartbeat
from phalanx.dist.checkpoint import directory, manifest
from phalanx.dist.checkpoint.save import CheckpointInfo
from phalanx.dist.checkpoint.saver import Saved, Saver
from phalanx.dist.comm.collectives import broadcast_object, gather_json
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.sampler import Stream
from phalanx.dist.ownership.run_owner import RunOwner
from phalanx.dist.processes.stop import StopRequest
from phalanx.dist.step.step_metrics import StepFigures
from phalanx.dist.storage.durable_files import write_atomically
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.early_stopping import Best
from phalanx.train.evaluation.evaluate import check_metric, measure
from phalanx.train.evaluation.evaluation_record import EvaluationRecord
from phalanx.train.evaluation.network_health import HealthWarnings, ReluWatch
from phalanx.train.optim import swa
from phalanx.train.optim.plateau import Plateau, watched
from phalanx.train.setup.data_check import SkippedSamples
from phalanx.train.state import TrainState
from phalanx.train.tasks import ActsBetweenSteps, Task, phases_of
from phalanx.train.tracking.ledger import Ledger
from phalanx.train.tracking.loss_watch import LossWatch
from phalanx.train.tracking.step_clock import StepClock
from phalanx.train.tracking.tracker import Tracker

_FEW_STEPS = 100  # after which a class that is never predicted is no surprise


@dataclass(frozen=True)
class Due:
    """What is due after a step.

    Attributes:
        epoch: number of steps of an epoch.
    """

    eval_every: int | None
    eval_last_epochs: int | None
    save_every: int | None
    save_minutes: float | None
    last_step: int
    epoch: Fraction

    @classmethod
    def of(cls, config: RunConfig, last_step: int, samples: int) -> "Due":
        """From a recipe, for a run of `last_step` steps and epochs of so many samples."""
        train, save, epoch = config.train, config.checkpoint, Fraction(samples, config.train.global_batch)
        return cls(train.eval_every, train.eval_last_epochs, save.every_steps, save.every_minutes, last_step, epoch)

    def evaluation(self, step: int) -> bool:
        regular = self.eval_every is not None and step % self.eval_every == 0
        return step == self.last_step or regular or self._ends_a_last_epoch(step)

    def _ends_a_last_epoch(self, step: int) -> bool:
        if self.eval_last_epochs is None:
            return False
        ended, all_epochs = step // self.epoch, round(self.last_step / self.epoch)
        return ended > (step - 1) // self.epoch and ended > all_epochs - self.eval_last_epochs

    def checkpoint(self, step: int) -> bool:
        return step == self.last_step or (self.save_every is not None and step % self.save_every == 0)

    def checkpoint_by_time(self, seconds: float) -> bool:
        """Whether one is due, this many seconds after the last one."""
        return self.save_minutes is not None and seconds >= 60 * self.save_minutes


@dataclass
class Run:
    """Everything that the loop needs.

    Attributes:
        state: its position.
        last_step: the run's number of steps.
        stop_at: step to save and stop at; None for none.
        saved: step of the newest checkpoint; 0 for none.
        evaluated: whether, at the start, that checkpoint holds the evaluation after its step.
        best: the best value so far of the metric `checkpoint.best`, and the evaluations since.
        skipped_samples: samples that could not be read.
        plateau: what lowers the learning rate where a metric does not improve, if the schedule does.
        health, loss_watch: warnings while training.
        clock: where the time of steps goes.
        record: what is kept of each evaluation besides its metrics.
        improved: whether the last evaluation, after this step, gave a better one.
        code: the exit code, once it has ended.
    """

    config: RunConfig
    directory: RunDirectory
    state: TrainState
    engine: Engine
    task: Task
    loader: Loader
    evaluation: EvaluationLoader
    stream: Stream
    tracker: Tracker
    ledger: Ledger
    stop: StopRequest
    owner: RunOwner
    due: Due
    last_step: int
    stop_at: int | None
    saver: Saver
    saved: int
    evaluated: bool
    best: Best
    skipped_samples: SkippedSamples
    health: HealthWarnings
    clock: StepClock
    record: EvaluationRecord
    plateau: Plateau | None = None
    loss_watch: LossWatch = field(default_factory=LossWatch)
    improved: bool = False
    code: ExitCode = ExitCode.FAILED
    _begun: int = 0
    _recomputed: int = 0
    _begun_at: float = field(default_factory=time.monotonic)
    _measured: tuple[int, dict[str, float]] = (0, {})

    def before_step(self) -> None:
        """Lets the task act, if it does so between steps. All ranks call together."""
        if isinstance(self.task, ActsBetweenSteps):
            self.saver.wait_for_copy()  # it may change buffers and weights
            with self.engine.between_steps(self.state.step) as model:
                self.task.before_step(model, self.state.step)

    def log(self, figures: Sequence[StepFigures]) -> None:
        """Logs the figures of earlier steps that have become known.

        Raises:
            TrainingFailed: if a loss is not finite: on every rank, after the same step.
        """
        self.tracker.training(figures, self.clock.figures)
        for known in figures:
            if known.broken:
                raise TrainingFailed(self._not_finite(known))
            for sentence in self.loss_watch.add(known):
                self._warn(known.step, sentence)

    def _warn(self, step: int, sentence: str) -> None:
        self.tracker.progress.say(f"phalanx: {sentence}")
        self.tracker.event("warning", step, reason=sentence)

    def _not_finite(self, known: StepFigures) -> str:
        numbers = known.broken
        draws = [d for v in numbers for d in self.stream.micro_batches(known.step - 1, v, v + 1)[0]]
        losses = ", ".join(f"{name} {value}" for name, value in known.losses.items())
        return (
            f"step {known.step}: the loss is not finite ({losses}), in micro-batch {', '.join(map(str, numbers))}, "
            f"epoch {draws[0].epoch}. {self._last_good()} Lower optim.lr, set train.clip_norm, or check the "
            f"{len(draws)} samples of the micro-batch: {', '.join(str(d.sample) for d in draws)}."
        )

    def _last_good(self) -> str:
        self.let_saves_end()  # its step had finite losses
        if not self.saved:
            return "There is no checkpoint yet."
        return f"The last good checkpoint is {directory.step_directory(self.directory.checkpoints, self.saved)}."

    def evaluate(self) -> None:
        """Evaluates; logs the metrics, and adds them to the checkpoint of this step. All ranks call together.

        Raises:
            UserError: if `checkpoint.best` is none of them.
        """
        heartbeat.beat("evaluation")
        self.log(self.engine.settle())
        relus, begun = ReluWatch(), time.monotonic()
        with self.clock.besides():
            self.saver.wait_for_copy()  # evaluation swaps the averaged weights in
            self._recompute_statistics()
            told = partial(self.tracker.progress.part, "evaluation")
            sums = measure(self.engine, self.task, self.evaluation, relus=relus, progress=told)
            predictions = self.record.predictions(self.engine)
        metrics = self.task.metrics(sums)
        self.tracker.evaluation(self.state.step, metrics)
        with self.clock.besides():
            self.record.write(self.state.step, sums, predictions, last=self.state.step == self.last_step)
        took = time.monotonic() - begun
        self.tracker.event("evaluate", self.state.step, **metrics | {"evaluation_s": round(took, 3)})
        for sentence in self.health.of(sums, relus, late=self.state.step >= max(_FEW_STEPS, self.last_step / 2)):
            self._warn(self.state.step, sentence)
        measured = {f"val/{name}": value for name, value in metrics.items()}
        self._measured = (self.state.step, measured)
        metric = self.config.checkpoint.best
        if metric is not None:
            check_metric("checkpoint.best", metric, metrics)
            self.improved = self.best.add(self.state.step, measured[metric])
        if self.plateau is not None:
            self._lower(self.plateau, measured)
        if self._begun == self.state.step:
            self._report(self.saver.wait())
        if self.saved == self.state.step:
            self._add_metrics()

    def _lower(self, lowered: Plateau, measured: Mapping[str, float]) -> None:
        """Lowers the learning rate if the watched metric has not improved for long enough."""
        metric = watched(self.config)
        assert metric is not None
        check_metric("schedule.metric", metric, [name.removeprefix("val/") for name in measured])
        if lowered.add(self.state.step, measured[metric]):
            self.tracker.progress.say(
                f"phalanx: {metric} has stopped improving: the learning rate is lowered by {lowered.factor:.3g}"
            )
            self.tracker.event("plateau", self.state.step, metric=metric, factor=lowered.factor)

    def _recompute_statistics(self) -> None:
        """With stochastic weight averaging: BatchNorm's statistics of the average, once per step. All ranks call together.

        They follow from these weights and from the data of the run's first steps alone, so that when they were computed
        before does not matter.
        """
        train, step = self.config.train, self.state.step
        if train.swa_start is None or step <= swa.first(self.config, self.last_step) or self._recomputed == step:
            return
        self._recomputed = step
        if self.engine.statistics.layers:
            (phase,) = phases_of(self.task)
            steps = (self.loader.examples(number, self.engine.mine) for number in range(train.swa_batches))
            self.engine.recompute_statistics(phase.losses, steps)

    def catch_up(self) -> None:
        """Evaluates if the run ended after a step whose evaluation was due but missing. All ranks call together.

        The best checkpoint, and early stopping, may depend on it.
        """
        if self.state.step > 0 and self.due.evaluation(self.state.step) and not self.evaluated:
            self.evaluate()

    def _add_metrics(self) -> None:
        """Adds the metrics to the checkpoint of this step. If that fails, a resume from it evaluates again."""
        self.improved = False  # this step has its checkpoint
        # Metrics in a checkpoint must be in metrics.jsonl first.
        if self._unwritten() is not None or not self.engine.world.ranks.is_main:
            return
        path = directory.step_directory(self.directory.checkpoints, self.state.step)
        try:
            stored = replace(manifest.read(path), metrics=self._measured[1])
            write_atomically(path / manifest.NAME, manifest.dumps(stored))
        except (OSError, manifest.BrokenCheckpoint) as problem:
            self.tracker.progress.say(f"phalanx: {path}: the metrics could not be added to the checkpoint: {problem}")
            return
        if self.config.checkpoint.best is not None:
            self.saver.prune(Saved(self.state.step, path, None, 0.0, 0.0))

    def save(self, awaited: bool) -> None:
        """Starts saving a checkpoint of the finished step, once it is known to be finite. All ranks call together.

        A failed save leaves older checkpoints unchanged, and is retried when the next one is due.

        Args:
            awaited: whether to wait until it is on the disk.

        Raises:
            TrainingFailed: if a loss or a parameter is not finite; nothing is written then.
        """
        heartbeat.beat("save")
        self._end_if_lost()
        self._begun_at, self.improved = time.monotonic(), False
        if self._begun == self.state.step:
            self._report(self.saver.wait() if awaited else [])
        if self.saved == self.state.step or (self._begun == self.state.step and not awaited):
            return
        self.log(self.engine.settle())
        if not self.engine.all_finite():
            raise TrainingFailed(
                f"step {self.state.step}: a parameter is not finite, though no loss was. {self._last_good()} "
                "Lower optim.lr, or set train.clip_norm."
            )
        with self.clock.besides():
            self._start_saving(awaited)

    def _start_saving(self, awaited: bool) -> None:
        self.saver.wait_for_copy()
        self._recompute_statistics()
        if (news := self.skipped_samples.news()) is not None:
            self.tracker.event("unreadable", self.state.step, **news)
        if (problem := self._unwritten()) is not None:
            return self._report([Saved(self.state.step, None, problem, 0.0, 0.0)])
        strategy, experiment = self.config.dist.strategy, digest(self.config)
        scalars, (measured_at, metrics) = self.engine.scalars(), self._measured
        metrics = metrics if measured_at == self.state.step else {}
        progress = CheckpointInfo(self.state.step, self.state.samples, strategy, experiment, scalars, metrics)
        self._report(self.saver.start(self.engine.entries(), progress, awaited))
        self._begun = self.state.step

    def _end_if_lost(self) -> None:
        """
        Raises:
            RunLost: on every rank, if the run directory is gone, or another trainer's.
        """
        lost = broadcast_object(self.engine.world, self.owner.problem() if self.engine.world.ranks.is_main else None)
        if lost is not None:
            self.tracker.abandon()
            raise RunLost(lost)

    @property
    def asked_to_stop(self) -> bool:
        """Whether this rank asks all to stop: the next save then raises the reason, or is the last."""
        return self.stop.asked or self.owner.is_lost

    def _unwritten(self) -> str | None:
        """Why metrics or ledger, which precede a checkpoint, are not on every rank's disk. All ranks call together."""
        problem = None
        try:
            self.tracker.sync()
            self.ledger.sync()
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}"
        return next((found for found in gather_json(self.engine.world, problem) if found), None)

    @property
    def is_time_to_save(self) -> bool:
        """Whether a checkpoint is due by this rank's clock."""
        return self.due.checkpoint_by_time(time.monotonic() - self._begun_at)

    def look_after_saves(self) -> None:
        """Reports a finished asynchronous save."""
        self._report(self.saver.take_ended())

    def _report(self, ended: Sequence[Saved]) -> None:
        if self.owner.is_lost:
            return  # the next save raises it, and writes nothing
        for save in ended:
            if save.path is None:
                self.tracker.event("save_failed", save.step, reason=save.problem)
                self.tracker.progress.say(
                    f"phalanx: step {save.step}: no checkpoint was written: {save.problem}. Older ones are intact"
                )
                continue
            if save.problem is not None:
                self.tracker.progress.say(f"phalanx: step {save.step}: {save.problem}")
            if self.saved == save.step:
                continue
            self.saved = save.step
            times = {"seconds": round(save.seconds, 4), "waited": round(save.waited, 4)}
            self.tracker.event("save", save.step, path=str(save.path), **times)

    def let_saves_end(self) -> None:
        """Waits for a save in flight after a failure: it may still become a checkpoint while the other ranks are alive."""
        try:
            self._report(self.saver.wait(timeout=60))
        except Exception as error:
            self.tracker.event("save_failed", self.state.step, reason=f"{type(error).__name__}: {error}")

    def stopped(self) -> ExitCode:
        """Ends a run that was asked to stop before its last step.

        Raises:
            TrainingFailed: if the checkpoint could not be written.
        """
        self._insist_on_checkpoint()
        reason = self.stop.signal.name if self.stop.signal else "asked by another rank or --stop-at"
        self.tracker.event("preempt", self.state.step, reason=reason)
        resume = f"`phalanx resume {self.directory.path}` resumes it"
        self.tracker.progress.say(f"stopped at step {self.state.step} with a checkpoint; {resume}")
        return ExitCode.STOPPED_EARLY

    def done(self) -> ExitCode:
        """Ends a run at its last step, or by early stopping."""
        self.save(awaited=True)  # again, if it failed before the evaluation
        self._insist_on_checkpoint()
        if self.state.step < self.last_step:
            self.tracker.event(
                "early_stop",
                self.state.step,
                metric=self.config.checkpoint.best,
                best=self.best.value,
                patience=self.best.patience,
            )
            self.tracker.progress.say(f"stopped early at step {self.state.step} of {self.last_step}: {self.best}")
        self.tracker.event("done", self.state.step)
        self.tracker.progress.say(f"done: {self.state.step} steps; results are in {self.directory.path}")
        return ExitCode.DONE

    def _insist_on_checkpoint(self) -> None:
        self._report(self.saver.wait())
        if self.saved != self.state.step:
            raise TrainingFailed(f"step {self.state.step}: the checkpoint could not be written. {self._last_good()}")
