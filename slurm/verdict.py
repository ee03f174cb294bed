"""The decision on a job whose ranks have ended: done, requeued, or failed. A pure function."""

from dataclasses import dataclass, replace
from typing import Literal

from phalanx.configs.errors import ExitCode

Action = Literal["done", "requeue", "leave", "fail"]


@dataclass(frozen=True)
class Ending:
    """How the ranks ended.

    Attributes:
        code: srun's exit code: the highest of the ranks'.
        state: the job's in SLURM.
        preempted: whether the job is preempted.
        hung: whether a rank hung.
        failure: the first failure that a rank reported, if it does not follow from another rank's end.
        lost: ranks that ended without a report: killed, or with their node.
        out_of_memory: whether SLURM or the kernel killed a rank for its memory.
        progress: whether there is a newer checkpoint than at the last requeue.
        in_a_row: consecutive requeues without progress so far.
        most: the allowed number of these.
        apart: nodes that do not reach each other, if any.
        fault: a failure that blames the hardware, if any.
        faulty: the name in SLURM of the node that has the fault, if known.
    """

    code: int
    state: str
    preempted: bool
    hung: bool
    failure: str | None
    lost: tuple[int, ...]
    out_of_memory: bool
    progress: bool
    in_a_row: int
    most: int
    apart: str | None = None
    fault: str | None = None
    faulty: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What to do, why, the exit code of the job, and the requeues without progress from now on.

    Attributes:
        exclude: a node that a requeued job is to be kept off.
    """

    action: Action
    reason: str
    code: int
    in_a_row: int
    exclude: str | None = None


def judge(ending: Ending) -> Verdict:
    """Time limits, preemption, a hung rank, lost ranks and broken hardware may succeed on a retry; a rank's own failure would
    recur."""
    if ending.code == ExitCode.DONE:
        return Verdict("done", "all steps are done", ExitCode.DONE, 0)
    if ending.state not in ("RUNNING", "SUSPENDED"):
        # Cancelled, or requeued by the user: a requeue would revive the former, and is not needed for the latter.
        return Verdict("leave", f"the job is {ending.state}", _code(ending), ending.in_a_row)
    if ending.fault is not None:
        verdict = _another_try(ending, ending.fault)
        return replace(verdict, exclude=ending.faulty) if verdict.action == "requeue" else verdict
    if ending.failure is not None:
        return Verdict("fail", ending.failure, _code(ending), ending.in_a_row)
    if ending.out_of_memory:
        return Verdict("fail", f"{_ranks(ending.lost)} ran out of memory", ExitCode.FAILED, ending.in_a_row)
    if ending.code == ExitCode.BAD_INPUT:
        return Verdict("fail", "bad input", ExitCode.BAD_INPUT, ending.in_a_row)
    return _another_try(ending, _why(ending))


def _why(ending: Ending) -> str:
    if ending.preempted:
        return "preempted"
    if ending.hung:
        return "a rank hung"
    if ending.apart is not None:
        return ending.apart
    if ending.code == ExitCode.STOPPED_EARLY:
        return "the time limit is near, or a signal came"
    return f"{_ranks(ending.lost)} ended without a report" if ending.lost else "ranks lost each other"


def _another_try(ending: Ending, reason: str) -> Verdict:
    """A run with progress may be requeued without limit; preemption does not count; a repeated hang does."""
    in_a_row = 0 if ending.progress else ending.in_a_row
    if ending.preempted:
        return Verdict("requeue", reason, ExitCode.STOPPED_EARLY, in_a_row)
    most = min(1, ending.most) if ending.hung else ending.most
    if in_a_row >= most:
        times = f"{in_a_row} requeue{'s' if in_a_row != 1 else ''} in a row made no progress"
        return Verdict("fail", f"{reason}, and {times} (slurm.max_requeues={ending.most})", ExitCode.FAILED, in_a_row)
    return Verdict("requeue", reason, ExitCode.STOPPED_EARLY, in_a_row + 1)


def _code(ending: Ending) -> int:
    """The job's exit code: of the ranks' own codes, and 1 for signals."""
    return ending.code if ending.code in set(ExitCode) else ExitCode.FAILED


def _ranks(numbers: tuple[int, ...]) -> str:
    if not numbers:
        return "a rank"
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
