"""A run under way: what the loop does besides training: log, evaluate, save, end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
from phalanx.train.evaluation.evaluate import check_best, evaluate
from phalanx.train.setup.data_check import SkippedSamples
from phalanx.train.state import TrainState
from phalanx.train.tasks import Task
from phalanx.train.tracking.ledger import Ledger
from phalanx.train.tracking.tracker import Tracker


@dataclass(frozen=True)
class Due:
    """What is to be done after a step."""

    eval_every: int | None
    save_every: int | None
    save_minutes: float | None
    last_step: int

    @classmethod
    def of(cls, config: RunConfig, last_step: int) -> "Due":
        """As a recipe says, for a run of so many steps."""
        return cls(config.train.eval_every, config.checkpoint.every_steps, config.checkpoint.every_minutes, last_step)

    def evaluation(self, step: int) -> bool:
        return step == self.last_step or (self.eval_every is not None and step % self.eval_every == 0)

    def checkpoint(self, step: int) -> bool:
        return step == self.last_step or (self.save_every is not None and step % self.save_every == 0)

    def checkpoint_by_time(self, seconds: float) -> bool:
        """So many seconds after the last one."""
        return self.save_minutes is not None and seconds >= 60 * self.save_minutes


@dataclass
class Run:
    """Everything that the loop needs.

    Attributes:
        state: how far it is.
        last_step: the run's number of steps.
        stop_at: step to save and stop at; None for none.
        saved: step of the newest checkpoint; 0 for none.
        evaluated: whether the evaluation after the step of that checkpoint is in it, as the run starts.
        best: the best value so far of the metric `checkpoint.best`, and how long ago it was.
        passed_over: samples that could not be read.
        improved: whether the last evaluation, after this step, gave a better one.
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
    passed_over: SkippedSamples
    improved: bool = False
    _begun: int = 0
    _begun_at: float = field(default_factory=time.monotonic)
    _measured: tuple[int, dict[str, float]] = (0, {})

    def log(self, figures: Sequence[StepFigures]) -> None:
        """Logs the figures of earlier steps that became known.

        Raises:
            TrainingFailed: where a loss is not finite: on every rank, after the same step.
        """
        self.tracker.training(figures)
        for known in figures:
            if known.broken:
                raise TrainingFailed(self._not_finite(known))

    def _not_finite(self, known: StepFigures) -> str:
        numbers = known.broken
        draws = [d for v in numbers for d in self.stream.micro_batches(known.step - 1, v, v + 1)[0]]
        losses = ", ".join(f"{name} {value}" for name, value in known.losses.items())
        return (
            f"step {known.step}: the loss is not finite ({losses}), in micro-batch {', '.join(map(str, numbers))}, "
            f"epoch {draws[0].epoch}. {self._last_good()} Lower optim.lr, set train.clip_norm, or look at the "
            f"{len(draws)} samples of the micro-batch: {', '.join(str(d.sample) for d in draws)}."
        )

    def _last_good(self) -> str:
        self.let_saves_end()  # it is of a step that was finite
        if not self.saved:
            return "There is no checkpoint yet."
        return f"The last good checkpoint is {directory.step_directory(self.directory.checkpoints, self.saved)}."

    def evaluate(self) -> None:
        """Metrics of the validation split: logged, and added to the checkpoint of this step. All ranks call together.

        Raises:
            UserError: where `checkpoint.best` names none of them.
        """
        heartbeat.beat("evaluation")
        self.log(self.engine.settle())
        self.saver.wait_for_copy()  # averaged weights take the weights' place
        metrics = evaluate(self.engine, self.task, self.evaluation)
        self.tracker.evaluation(self.state.step, metrics)
        self.tracker.event("evaluate", self.state.step, **metrics)
        measured = {f"val/{name}": value for name, value in metrics.items()}
        self._measured = (self.state.step, measured)
        metric = self.config.checkpoint.best
        if metric is not None:
            check_best(metric, metrics)
            self.improved = self.best.add(self.state.step, measured[metric])
        if self._begun == self.state.step:
            self._tell(self.saver.wait())
        if self.saved == self.state.step:
            self._add_metrics()

    def catch_up(self) -> None:
        """Evaluates where the run ended after a step whose evaluation was due, and had not come. All ranks call together.

        Its best checkpoint, and its end, may depend on it.
        """
        if self.state.step > 0 and self.due.evaluation(self.state.step) and not self.evaluated:
            self.evaluate()

    def _add_metrics(self) -> None:
        """To the checkpoint of this step, which was saved without. Where that fails, a resume from it evaluates again."""
        self.improved = False  # this step has its checkpoint
        # What the checkpoint says to be measured has to be in metrics.jsonl first.
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
        """Begins a checkpoint of the finished step, once it is known to be finite. All ranks call together.

        A save that fails leaves the older checkpoints as they were, and is tried again at the next one's time.

        Args:
            awaited: whether to return only when it is on the disk.

        Raises:
            TrainingFailed: where a loss or a parameter is not finite; nothing is written then.
        """
        heartbeat.beat("save")
        self._end_if_lost()
        self._begun_at, self.improved = time.monotonic(), False
        if self._begun == self.state.step:
            self._tell(self.saver.wait() if awaited else [])
        if self.saved == self.state.step or (self._begun == self.state.step and not awaited):
            return
        self.log(self.engine.settle())
        if not self.engine.all_finite():
            raise TrainingFailed(
                f"step {self.state.step}: a parameter is not finite, though no loss was. {self._last_good()} "
                "Lower optim.lr, or set train.clip_norm."
            )
        if (news := self.passed_over.news()) is not None:
            self.tracker.event("unreadable", self.state.step, **news)
        if (problem := self._unwritten()) is not None:
            return self._tell([Saved(self.state.step, None, problem, 0.0, 0.0)])
        strategy, experiment = self.config.dist.strategy, digest(self.config)
        scalars, (measured_at, metrics) = self.engine.scalars(), self._measured
        metrics = metrics if measured_at == self.state.step else {}
        progress = CheckpointInfo(self.state.step, self.state.samples, strategy, experiment, scalars, metrics)
        self._tell(self.saver.start(self.engine.entries(), progress, awaited))
        self._begun = self.state.step

    def _end_if_lost(self) -> None:
        """
        Raises:
            RunLost: on every rank, where the run directory is not there any more, or another trainer's.
        """
        lost = broadcast_object(self.engine.world, self.owner.problem() if self.engine.world.ranks.is_main else None)
        if lost is not None:
            self.tracker.abandon()
            raise RunLost(lost)

    @property
    def asked_to_stop(self) -> bool:
        """Whether this rank wants all of them to stop: the next save then says why, or is the last."""
        return self.stop.asked or self.owner.is_lost

    def _unwritten(self) -> str | None:
        """Why what comes before a checkpoint (metrics, ledger) is not on the disk of every rank. All ranks call together."""
        problem = None
        try:
            self.tracker.sync()
            self.ledger.sync()
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}"
        return next((found for found in gather_json(self.engine.world, problem) if found), None)

    @property
    def is_time_to_save(self) -> bool:
        """By this rank's clock."""
        return self.due.checkpoint_by_time(time.monotonic() - self._begun_at)

    def look_after_saves(self) -> None:
        """Tells of a save in flight that has ended."""
        self._tell(self.saver.take_ended())

    def _tell(self, ended: Sequence[Saved]) -> None:
        if self.owner.is_lost:
            return  # the next save says so, and writes nothing
        for save in ended:
            if save.path is None:
                self.tracker.event("save_failed", save.step, reason=save.problem)
                self.tracker.progress.say(
                    f"phalanx: step {save.step}: no checkpoint was written: {save.problem}. Older ones are whole"
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
        """After a failure: a save in flight may still become a checkpoint, as long as the other ranks are there."""
        try:
            self._tell(self.saver.wait(timeout=60))
        except Exception as error:
            self.tracker.event("save_failed", self.state.step, reason=f"{type(error).__name__}: {error}")

    def stopped(self) -> ExitCode:
        """Asked to stop before the last step.

        Raises:
            TrainingFailed: where the checkpoint could not be written.
        """
        self._insist_on_checkpoint()
        reason = self.stop.signal.name if self.stop.signal else "asked by another rank or --stop-at"
        self.tracker.event("preempt", self.state.step, reason=reason)
        going_on = f"`phalanx resume {self.directory.path}` goes on"
        self.tracker.progress.say(f"stopped at step {self.state.step} with a checkpoint; {going_on}")
        return ExitCode.STOPPED_EARLY

    def done(self) -> ExitCode:
        """The last step is finished, or the patience is over."""
        self.save(awaited=True)  # where that failed before the evaluation
        self._insist_on_checkpoint()
        if self.state.step < self.last_step:
            self.tracker.event(
                "early_stop",
                self.state.step,
                metric=self.config.checkpoint.best,
                best=self.best.value,
                patience=self.best.patience,
            )
            self.tracker.progress.say(f"ended early at step {self.state.step} of {self.last_step}: {self.best}")
        self.tracker.event("done", self.state.step)
        self.tracker.progress.say(f"done: {self.state.step} steps; results are in {self.directory.path}")
        return ExitCode.DONE

    def _insist_on_checkpoint(self) -> None:
        self._tell(self.saver.wait())
        if self.saved != self.state.step:
            raise TrainingFailed(f"step {self.state.step}: the checkpoint could not be written. {self._last_good()}")
