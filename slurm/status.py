"""Where a run stands: what SLURM says of its job, and what the run directory says of the training."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint.directory import steps
from phalanx.dist.json_lines import read_lines
from phalanx.dist.run_directory import RunDirectory, read_events
from phalanx.slurm import ask, jobs
from phalanx.slurm.submit import state_of

# What a run without a job is, by the last thing that happened to it, in SLURM's words.
_STATES = {"done": "COMPLETED", "failure": "FAILED", "preempt": "PREEMPTED", "hang": "FAILED"}


@dataclass(frozen=True)
class Status:
    """A run and its job.

    Attributes:
        state: in SLURM's word; UNKNOWN where nobody can say.
        job: number of the newest job; None where there never was one.
        reason: why it waits, or ended so.
        nodes: that it runs on.
        restarts: how often the job was requeued.
        step: the last one that was logged; `steps` of how many, as far as known.
        checkpoint: step of the newest checkpoint; 0 for none.
        metrics: the last line of metrics.jsonl.
        elapsed_s: seconds since the job's start, while it runs.
    """

    run: str
    state: str
    job: str | None
    reason: str | None
    nodes: tuple[str, ...]
    restarts: int
    step: int
    steps: int | None
    checkpoint: int
    metrics: dict[str, float]
    elapsed_s: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        where = f" on {', '.join(self.nodes)}" if self.nodes else ""
        job = "no job" if self.job is None else f"job {self.job}{where}, {_times(self.restarts)}"
        of = f" of {self.steps}" if self.steps else ""
        saved = f"checkpoint of step {self.checkpoint}" if self.checkpoint else "no checkpoint yet"
        figures = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items() if "/" in name)
        reason = f" ({self.reason})" if self.reason else ""
        return [
            f"{self.run}: {self.state}{reason}",
            f"  {job}",
            f"  step {self.step}{of}, {saved}",
            *([f"  {figures}"] if figures else []),
        ]


def _times(restarts: int) -> str:
    return "never requeued" if not restarts else f"requeued {restarts} time{'s' if restarts > 1 else ''}"


def status(run: RunDirectory) -> Status:
    """Where a run stands.

    Raises:
        UserError: where there is none.
    """
    config = run.read_config()
    last, job = jobs.newest(run), None
    state, reason = _by_events(run)
    if last is not None and last.where == "local":
        state = state_of(last) or state
    elif last is not None:
        try:
            job = ask.job(last.job)
        except ask.SlurmError as error:
            state, reason = "UNKNOWN", str(error)
        if job is not None:
            state, reason = job.state, job.reason
    metrics = list(read_lines(run.metrics))
    values = metrics[-1] if metrics else {}
    elapsed = time.time() - job.start if job is not None and job.state == "RUNNING" and job.start else None
    return Status(
        run=str(run.path),
        state=state,
        job=last.job if last else None,
        reason=reason,
        nodes=job.nodes if job else (),
        restarts=job.restarts if job else 0,
        step=int(values.get("step", 0)),
        steps=config.train.steps,
        checkpoint=max(steps(run.checkpoints), default=0),
        metrics={name: value for name, value in values.items() if name not in ("step", "time")},
        elapsed_s=elapsed,
    )


def _by_events(run: RunDirectory) -> tuple[str, str | None]:
    """A run that SLURM doesn't know, by what happened last."""
    told = [event for event in read_events(run) if event["event"] in (*_STATES, "start", "resume")]
    if not told or told[-1]["event"] not in _STATES:
        return "UNKNOWN", None
    return _STATES[told[-1]["event"]], told[-1].get("reason")


def cancel(run: RunDirectory) -> jobs.Submission:
    """Ends a run's job: its ranks save, and it is not requeued.

    Raises:
        UserError: where there is no job to end.
    """
    run.read_config()
    last = jobs.newest(run)
    if last is None or state_of(last) is None:
        ended = "was never submitted" if last is None else f"has no job under way: job {last.job} has ended"
        raise UserError(f"{run.path} {ended}. `phalanx status {run.path}` says more.")
    if last.where == "local":
        jobs.end_local(last)
    else:
        ask.cancel(last.job)
    return last
