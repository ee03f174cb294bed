"""Queries SLURM's jobs by its own commands, and controls them.

Every query is one command with a limit of `TIMEOUT_S`; a loaded controller answers slowly, so make each query once.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from phalanx.configs.sections import slurm

TIMEOUT_S = 30

# The user's settings that would change the commands' output.
_TASTE = ("SQUEUE_", "SINFO_", "SACCT_", "SCONTROL_", "SLURM_TIME_FORMAT")
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
_NO_SUCH_JOB = "no such job"
# Columns of sacct, by scontrol's names for them.
_SACCT = {
    "JobName": "JobName",
    "JobState": "State",
    "Reason": "Reason",
    "NodeList": "NodeList",
    "StartTime": "Start",
    "EndTime": "End",
    "TimeLimit": "Timelimit",
    "ExitCode": "ExitCode",
}


class SlurmError(RuntimeError):
    """A command of SLURM's failed.

    Attributes:
        command: the command line.
        message: SLURM's error message.
    """

    def __init__(self, command: Sequence[str], message: str):
        self.command, self.message = shlex.join(command), message
        super().__init__(f"{self.command}: {message}")


@dataclass(frozen=True)
class Job:
    """A job's current or last known state in SLURM.

    Attributes:
        state: SLURM's: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, TIMEOUT, ...
        reason: why it waits, or ended so; None without one.
        nodes: on which it runs, or last ran.
        restarts: number of requeues.
        start, end: seconds since the epoch; of a running job, when it will be ended; None if unknown.
        limit_s: time limit in seconds; None for no limit.
        preempted: whether it runs but is being preempted; only known while it runs.
        exit_code, exit_signal: of its script, once it has ended; 0 for no signal.
    """

    id: str
    name: str
    state: str
    reason: str | None
    nodes: tuple[str, ...]
    restarts: int
    start: float | None
    end: float | None
    limit_s: int | None
    preempted: bool
    exit_code: int | None
    exit_signal: int | None

    @property
    def over(self) -> bool:
        """Whether it has ended for good."""
        return self.state in _ENDED


# --- commands, and what they print


def answer(*command: str) -> str:
    """The output of a command.

    Raises:
        SlurmError: if it fails, does not exist, or takes longer than `TIMEOUT_S`.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_TASTE)}
    environment |= {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}  # seconds since the epoch
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except FileNotFoundError:
        raise SlurmError(command, "the command is not found") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(command, f"no answer within {TIMEOUT_S} s") from None
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip(" *") and line[0] != "*"]
        raise SlurmError(command, "; ".join(said) or f"exit code {done.returncode}")
    return done.stdout


def fields_of(line: str) -> dict[str, str]:
    """A line of `scontrol show -o`: `Key=value Key=value with spaces Key=a=1,b=2`."""
    pairs = (part.partition("=") for part in re.split(r"\s+(?=[A-Za-z][\w/:]*=)", line.strip()))
    found: dict[str, str] = {}
    for key, _, value in pairs:
        found.setdefault(key, value.strip())
    return found


def integer_of(text: str) -> int | None:
    """An integer; None for UNLIMITED, N/A and the like."""
    return int(text) if text.isdigit() else None


def seconds(text: str) -> int | None:
    """A time limit in seconds; None for UNLIMITED, NONE, Partition_Limit and the like."""
    return slurm.seconds(text) if re.match(r"\d", text) else None


def hosts(nodes: str) -> tuple[str, ...]:
    """Expands SLURM's `node[08-10,12],login1`."""
    found: list[str] = []
    for name in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", nodes):
        bracket = re.search(r"\[([^\]]*)\]", name)
        if bracket is None:
            found.append(name)
            continue
        for numbers in bracket[1].split(","):
            first, _, last = numbers.partition("-")
            for number in range(int(first), int(last or first) + 1):
                found += hosts(f"{name[: bracket.start()]}{number:0{len(first)}}{name[bracket.end() :]}")
    return tuple(found)


def available() -> str | None:
    """Why SLURM is unavailable here; None if it answers."""
    if shutil.which("sbatch") is None:
        return "sbatch is not found"
    try:
        answer("scontrol", "ping")
    except SlurmError as error:
        return f"SLURM's controller does not answer ({error})"
    return None


# --- jobs


def _exit(text: str, state: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    return (int(match[1]), int(match[2])) if match and state in _ENDED else (None, None)


def _job(fields: dict[str, str], restarts: int) -> Job:
    """Fields as scontrol names them."""
    state = fields["JobState"].split()[0]  # sacct has `CANCELLED by 1000`
    reason, placed = fields["Reason"], fields["NodeList"]
    code, signal = _exit(fields["ExitCode"], state)
    start, end = integer_of(fields["StartTime"]), integer_of(fields["EndTime"])
    return Job(
        id=fields["JobId"],
        name=fields["JobName"],
        state=state,
        reason=None if reason in ("", "None") or state == "COMPLETED" else reason,  # sacct keeps an old one
        nodes=() if placed in ("", "(null)", "None assigned") else hosts(placed),
        restarts=restarts,
        start=start,
        end=end,
        limit_s=seconds(fields["TimeLimit"]),
        preempted=state == "RUNNING" and integer_of(fields.get("PreemptTime", "")) is not None,
        exit_code=code,
        exit_signal=signal,
    )


def described(id: str) -> dict[str, str]:
    """The controller's fields of a job.

    Raises:
        SlurmError: if it does not answer, or does not know the job.
    """
    command = ("scontrol", "show", "job", "--oneliner", id)
    found = [fields_of(line) for line in answer(*command).splitlines() if line.startswith("JobId=")]
    if not found:
        raise SlurmError(command, _NO_SUCH_JOB)
    # An array is shown as its tasks, one of which has the array's number.
    return next((record for record in found if record["JobId"] == id), found[0])


def job(id: str) -> Job | None:
    """A job, from the controller; from sacct once the controller has forgotten it; None if both do not know it.

    Args:
        id: the job's, such as 4711, or 4711_3 for a task of an array.
    """
    if not re.fullmatch(r"\d+(_\d+)?", id):
        return None
    try:
        fields = described(id)
    except SlurmError as error:
        if error.message == _NO_SUCH_JOB:
            return None
        if "Invalid job id" not in error.message:
            raise
        return past_job(id)
    return _job(fields | {"JobId": id}, restarts=integer_of(fields.get("Restarts", "")) or 0)


def past_job(id: str) -> Job | None:
    """A job from the accounting, if there is any: one line per run of the job."""
    options = ["--noheader", "--parsable2", "--allocations", "--duplicates", f"--format={','.join(_SACCT.values())}"]
    try:
        printed = answer("sacct", *options, "--jobs", id)
    except SlurmError:
        return None
    pieces = [line.split("|") for line in printed.splitlines() if line.count("|") == len(_SACCT) - 1]
    if not pieces:
        return None
    return _job(dict(zip(_SACCT, pieces[-1], strict=True)) | {"JobId": id}, restarts=len(pieces) - 1)


def requeue(id: str) -> None:
    """Requeues a job under the same id; a running one is ended.

    Raises:
        SlurmError: if SLURM refuses.
    """
    answer("scontrol", "requeue", id)


def cancel(id: str) -> None:
    """Ends a job, or removes it from the queue; does nothing if it has ended.

    Raises:
        SlurmError: if SLURM refuses.
    """
    answer("scancel", id)
