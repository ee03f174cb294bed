"""The first failure of an attempt: many ranks fail when one does, and only the first one has the reason."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx.configs.errors import RanksApart
from phalanx.dist.storage.durable_files import read_json_object
from phalanx.dist.storage.json_lines import number
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.slurm.parameters import ATTEMPT

_TAIL_BYTES = 64 << 10
_ENDED = re.compile(r"srun: error: (?P<node>\S+): tasks? (?P<tasks>[\d,-]+): (?P<how>.+)")
_MEMORY = re.compile(r"(?i)out[ -]of[ -]memory|oom[-_ ]kill|exceeded (job |step )?memory limit")


@dataclass(frozen=True)
class Report:
    """A rank's report in errors/rank-N.json.

    Attributes:
        node: its node's name in SLURM; empty if unknown.
        echo: whether it only reports that other ranks were gone, or not reached.
    """

    rank: int
    host: str
    node: str
    time: float
    kind: str
    message: str
    traceback: str
    attempt: str
    echo: bool

    @property
    def apart(self) -> bool:
        """Whether it names nodes that do not reach each other: then it is the reason, though a retry may help."""
        return self.kind == RanksApart.__name__


def reports(run: RunDirectory, attempt: str | None = None) -> list[Report]:
    """The failures of an attempt, by default the newest, in the order of time.

    Those that follow from others come last, first among them those that name nodes which do not reach each other.
    """
    found = []
    for path in sorted(run.errors.glob("rank-*.json")):
        try:
            found.append(_report(read_json_object(path)))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # possibly written on a full disk; the others count
    if attempt is None and found:
        attempt = max(found, key=lambda report: report.time).attempt
    return sorted((r for r in found if r.attempt == attempt), key=lambda report: (report.echo, not report.apart, report.time))


def _report(stored: dict[str, Any]) -> Report:
    words = ("rank", "host", "time", "type", "message", "traceback")
    rank, host, time, kind, message, traceback = (stored[word] for word in words)
    if not isinstance(rank, int) or (moment := number(time)) is None or not math.isfinite(moment):
        raise ValueError
    return Report(
        rank,
        str(host),
        str(stored.get("node", "")),
        moment,
        str(kind),
        str(message),
        "".join(traceback),
        str(stored.get("attempt", "")),
        bool(stored["echo"]),
    )


def batch_log(run: RunDirectory, job: str) -> Path:
    """The log of the batch script and srun."""
    return run.slurm / f"{job}_0_log.out"


def last_attempt(log: Path) -> Sequence[str]:
    """The lines of the newest attempt in a batch script's log, which continues through requeues."""
    return _since_attempt(log.read_text(errors="replace").splitlines() if log.is_file() else [])


def last_words(log: Path) -> str:
    """What a rank wrote last in the newest attempt; the batch script opens attempts in the ranks' logs, too."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(_since_attempt(lines))


def _since_attempt(lines: Sequence[str]) -> Sequence[str]:
    starts = [number for number, line in enumerate(lines) if line.startswith(ATTEMPT)]
    return lines[starts[-1] :] if starts else lines


def node_of(lines: Sequence[str], rank: int) -> str:
    """The node on which srun says that a task ended; empty if it does not."""
    ended = (match for line in lines if (match := _ENDED.search(line)))
    return next((match["node"] for match in ended if rank in _numbers(match["tasks"])), "")


def _numbers(tasks: str) -> set[int]:
    """`0,4-6` as numbers."""
    bounds = (part.partition("-") for part in tasks.split(",") if part)
    return {number for first, _, last in bounds for number in range(int(first), int(last or first) + 1)}


def ended_by_srun(lines: Sequence[str]) -> str | None:
    """srun's message on the first task that ended, such as `node0: task 1: Killed`."""
    match = next((m for line in lines if (m := _ENDED.search(line))), None)
    return match and f"{match['node']}: task {match['tasks']}: {match['how']}"


def out_of_memory(lines: Sequence[str]) -> str | None:
    """SLURM's message if memory was the cause."""
    return next((line for line in lines if _MEMORY.search(line)), None)
