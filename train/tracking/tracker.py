"""Tracking: metrics.jsonl and events.jsonl always, W&B and TensorBoard if enabled. On rank 0 only; silent elsewhere."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from phalanx.configs.schema import RunConfig
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.step.step_metrics import StepFigures
from phalanx.dist.storage.json_lines import JsonLines, cut_back, join_last, number, read_lines
from phalanx.dist.storage.run_directory import Events, RunDirectory, read_events
from phalanx.train.tracking.progress import ProgressLine
from phalanx.train.tracking.sinks import Sink, open_sinks


class Tracker:
    """Writes one line per step, even if its figures arrive in parts (the training's, then the evaluation's)."""

    def __init__(self, config: RunConfig, run: RunDirectory, ranks: Ranks, first_step: int, last_step: int):
        self._log_every, self._last_step = config.train.log_every, last_step
        self._row: dict[str, float] = {}
        self._in_file: dict[str, float] = {}  # the part of the row that metrics.jsonl has
        self._row_step = self._first_step = first_step
        self._sinks: list[Sink] = []
        self._waits = False
        self.already_logged = 0
        self._metrics: JsonLines | None = None
        self._events: Events | None = None
        # srun writes each rank's output there itself.
        log = None if "SLURM_STEP_ID" in os.environ else run.logs / "rank-0.log"
        self.progress = ProgressLine(last_step, first_step, ranks.is_main, log=log)
        if not ranks.is_main:
            return
        # Steps that an attempt logged before a kill are repeated; W&B has them already.
        lines = list(read_lines(run.metrics, step=int))
        logged = [line["step"] for line in lines]
        logged += [event["logged"] for event in read_events(run) if isinstance(event.get("logged"), int)]
        self.already_logged = max(logged, default=0)
        self._events = Events(run)
        if self.already_logged > first_step:
            # Recorded before anything is cut back, so that a kill in between does not lose it.
            until = max((number(line.get("time")) or 0.0 for line in lines), default=None)  # how long the attempt before ran
            self._events.write("cut_back", first_step, logged=self.already_logged, until=until)
            self._events.sync()
        cut_back(run.metrics, first_step)
        self._metrics = JsonLines(run.metrics)
        rows = [_figures(line) for line in read_lines(run.metrics, step=int)]
        self._sinks = open_sinks(config, run, first_step, rows, self.already_logged, self.progress.say)

    def training(self, figures: Sequence[StepFigures], more: Callable[[int], dict[str, float]] | None = None) -> None:
        """Logs figures of finished steps: every `train.log_every`-th, and the first and the last.

        Args:
            more: further figures of a step that is logged, such as `StepClock.figures`.
        """
        for known in figures:
            values = {"train/loss": sum(known.losses.values()), "train/lr": known.learning_rate}
            if len(known.losses) > 1:
                values |= {f"train/loss/{name}": value for name, value in known.losses.items()}
            if known.norm is not None:
                values["train/grad_norm"] = known.norm
            if known.loss_scale is not None:
                values["train/loss_scale"] = known.loss_scale
            if known.skipped:
                self.event("overflow", known.step, loss_scale=known.loss_scale)
            due = known.step % self._log_every == 0 or known.step in (1, self._last_step)
            self.progress.step(known.step, {"loss": values["train/loss"], "lr": values["train/lr"]}, due)
            if due:
                self._add(known.step, values | ({} if more is None else more(known.step)))

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs metrics of the validation split after a step."""
        self._add(step, {f"val/{name}": value for name, value in metrics.items()})
        listed = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.progress.say(f"step {step}: validation: {listed}")

    def event(self, event: str, step: int, **details: Any) -> None:
        """Writes a line of events.jsonl, on the disk when this returns, unless the disk is full."""
        if self._events is not None:
            self._check(self._events.write(event, step, **details))

    def _check(self, problem: OSError | None) -> None:
        """Reports once that lines wait, until they are written."""
        if problem is not None and not self._waits:
            self.progress.say(f"phalanx: {problem.filename}: {problem.strerror}: its lines wait in memory for free space")
        self._waits = problem is not None

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        if step != self._row_step:
            self._end_row()
            self._row_step = step
        self._row |= values

    def _end_row(self) -> None:
        """Ends the row: the step has no further figures."""
        # The file first: a sink may lack a step after a kill, but never has one twice.
        self._write_row()
        for sink in list(self._sinks) if self._row else ():
            try:
                sink.log(self._row_step, self._row)
            except Exception as error:
                self._lose(sink, error)
        self._row, self._in_file = {}, {}

    def _write_row(self) -> None:
        """Writes the known figures of the step into its single line of metrics.jsonl."""
        if self._metrics is None or self._row == self._in_file:
            return
        line = {"step": self._row_step, "time": time.time(), **self._row}
        if self._in_file or self._row_step == self._first_step:
            self._metrics = self._joined(self._metrics, line)
        else:
            self._check(self._metrics.append(line))
        self._in_file = dict(self._row)

    def _joined(self, metrics: JsonLines, line: dict[str, Any]) -> JsonLines:
        """Adds an evaluation after the step's checkpoint, or after a resume, to the step's existing line."""
        try:
            metrics.sync()
            join_last(metrics.path, line)
        except OSError:
            self._check(metrics.append(line))  # a separate line, which waits for free space
            return metrics
        metrics.abandon()  # another file has replaced it
        return JsonLines(metrics.path)

    def _lose(self, sink: Sink, error: Exception) -> None:
        """Drops a failed sink: neither a lost server nor a dead helper process, which gets our signals, stops training."""
        self._sinks.remove(sink)
        reason = f"{type(error).__name__}: {error}"
        self.event("tracking_lost", self._row_step, sink=sink.name, reason=reason)
        self.progress.say(f"phalanx: {sink.name} is lost ({reason}). metrics.jsonl continues; a resume sends what is missing")

    def sync(self) -> None:
        """Returns when everything logged is on the disk.

        Raises:
            OSError: if it cannot be written.
        """
        self._write_row()
        if self._metrics is not None and self._events is not None:
            self._metrics.sync()
            self._events.sync()

    def close(self, exit_code: int) -> None:
        self._end_row()
        for sink in list(self._sinks):
            try:
                sink.close(exit_code)
            except Exception as error:
                self._lose(sink, error)
        for file in (self._metrics, self._events):
            try:
                if file is not None:
                    file.close()
            except OSError as error:
                self.progress.say(f"phalanx: {error.filename}: {error.strerror}: its last lines are lost")

    def abandon(self) -> None:
        """Stops writing to the run directory."""
        self._row, self._in_file = {}, {}
        for file in (self._metrics, self._events):
            if file is not None:
                file.abandon()
        self._metrics = self._events = None


def _figures(line: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a line of metrics.jsonl."""
    return {name: figure for name, value in line.items() if (figure := number(value)) is not None}
