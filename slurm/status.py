"""The status of a run: its job from SLURM, its training from the run directory."""

import math
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint.directory import steps
from phalanx.dist.ownership import owner_record
from phalanx.dist.storage.json_lines import number, read_lines
from phalanx.dist.storage.run_directory import RunDirectory, read_events
from phalanx.slurm import ask, jobs
from phalanx.slurm.submit import state_of

_SILENT_S, _SILENT_AT_START_S = 120.0, 1800.0
# The state of a run without a job, by its last event.
_STATES = {"done": "COMPLETED", "failure": "FAILED", "preempt": "STOPPED", "hang": "FAILED"}


@dataclass(frozen=True)
class Status:
    """A run and its job.

    Attributes:
        state: of a job, SLURM's; of a run without a job RUNNING, STALLED (it lives, but has logged nothing for long), KILLED,
            STOPPED, FAILED or COMPLETED. UNKNOWN if neither is known.
        job: id of the newest job; None without one.
        reason: why it waits, or ended so.
        nodes: on which it runs.
        restarts: number of the job's requeues.
        step: the last logged one; `steps`: of how many, if known.
        checkpoint: step of the newest checkpoint; 0 for none.
        metrics: the last line of metrics.jsonl; "nan" and "inf" are strings.
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
    metrics: dict[str, float | str]
    elapsed_s: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The lines for a person."""
        where = f" on {', '.join(self.nodes)}" if self.nodes else ""
        job = "no job" if self.job is None else f"job {self.job}{where}, {_times(self.restarts)}"
        of = f" of {self.steps}" if self.steps else ""
        saved = f"checkpoint of step {self.checkpoint}" if self.checkpoint else "no checkpoint yet"
        known = {name: number(value) for name, value in self.metrics.items() if "/" in name}
        figures = "  ".join(f"{name} {value:.4g}" for name, value in known.items() if value is not None)
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
        UserError: if there is no run.
    """
    config = run.read_config()
    last, job = jobs.newest_submission(run), None
    state, reason = _here(run, last)
    if last is not None and last.where == "slurm" and state != "RUNNING":
        try:
            job = ask.job(last.job)
        except ask.SlurmError as error:
            state, reason = "UNKNOWN", str(error)
        if job is not None:
            state, reason = job.state, job.reason
    values = next(reversed(list(read_lines(run.metrics, step=int))), {"step": 0})
    elapsed = time.time() - job.start if job is not None and job.state == "RUNNING" and job.start else None
    return Status(
        run=str(run.path),
        state=state,
        job=last.job if last else None,
        reason=reason,
        nodes=job.nodes if job else (),
        restarts=job.restarts if job else 0,
        step=values["step"],
        steps=config.train.steps,
        checkpoint=max(steps(run.checkpoints), default=0),
        metrics=_figures(values),
        elapsed_s=elapsed,
    )


def _figures(line: dict[str, Any]) -> dict[str, float | str]:
    """The figures of a line of metrics.jsonl; JSON has no values that are not finite."""
    known = {name: number(value) for name, value in line.items() if name not in ("step", "time")}
    return {name: value if math.isfinite(value) else str(value) for name, value in known.items() if value is not None}


def _here(run: RunDirectory, last: jobs.Submission | None) -> tuple[str, str | None]:
    """The state of a run without a job: by its trainer's claim and heartbeat, then by its last event."""
    if last is not None and last.where == "local" and (state := state_of(last)):
        return state, None
    owner = _owner(run)
    lives = owner is not None and owner_record.is_alive(run, owner)
    if owner is not None and lives and not (last is not None and last.where == "slurm" and owner.job == last.job):
        silent = _silent(run, owner)
        return ("RUNNING", str(owner)) if silent is None else ("STALLED", f"{owner} has logged nothing for {silent:.0f} s")
    told = [event for event in read_events(run) if event["event"] in (*_STATES, "start", "resume")]
    if owner is not None and not lives and (not told or told[-1]["time"] < owner.started or told[-1]["event"] not in _STATES):
        return "KILLED", f"{owner} is gone without a word"
    if told and told[-1]["event"] in _STATES:
        reason = told[-1].get("reason")
        return _STATES[told[-1]["event"]], str(reason) if reason is not None else None
    return ("KILLED", "nothing trains it any more") if told and last is None else ("UNKNOWN", None)


def _silent(run: RunDirectory, owner: owner_record.Owner) -> float | None:
    """For how many seconds a live run has logged nothing; None while that is no longer than it may be.

    It may be ten times the longest it has been between two lines since this trainer began, and at least two minutes; before
    the second line, half an hour.
    """
    lines = [*read_lines(run.metrics, step=int), *read_events(run)]
    times = sorted(when for line in lines if (when := number(line.get("time"))) is not None and when >= owner.started)
    longest = max((later - when for when, later in pairwise(times)), default=None)
    allowed = _SILENT_AT_START_S if longest is None else max(_SILENT_S, 10 * longest)
    silent = time.time() - max([owner.started, *times])
    return silent if silent > allowed else None


def _owner(run: RunDirectory) -> owner_record.Owner | None:
    claim = owner_record.newest_claim(run)
    return claim.owner if claim is not None else None


def cancel(run: RunDirectory) -> jobs.Submission:
    """Ends a run's job: its ranks save, and it is not requeued.

    Raises:
        UserError: if there is no job to end.
    """
    run.read_config()
    last = jobs.newest_submission(run)
    if last is None or state_of(last) is None:
        ended = "was never submitted" if last is None else f"has no job under way: job {last.job} has ended"
        if (owner := _owner(run)) is not None and owner_record.is_alive(run, owner):
            ended += f"; {owner} trains it, and `kill {owner.process}` there makes it save and end"
        raise UserError(f"{run.path} {ended}. `phalanx status {run.path}` says more.")
    if last.where == "local":
        jobs.end_local(last)
    else:
        try:
            ask.cancel(last.job)
        except ask.SlurmError as error:
            raise UserError(f"job {last.job} could not be ended: {error}.") from None
    return last
