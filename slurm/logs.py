"""The output of `phalanx logs`: the first failure in time, then the last lines of a rank."""

import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError, printable
from phalanx.dist.storage.run_directory import RunDirectory, read_events
from phalanx.slurm import failures, jobs
from phalanx.slurm.failures import Report

_GOES_ON = ("start", "resume")


def _of_newest_attempt(run: RunDirectory) -> list[Report]:
    """The failures since the run was last started, reasons first; those of earlier attempts do not count."""
    begun = max((event["time"] for event in read_events(run) if event["event"] in _GOES_ON), default=0.0)
    return [report for report in failures.reports(run) if report.time >= begun]


def _lost(run: RunDirectory) -> str | None:
    """srun's message on the first rank that ended, if none could write a report."""
    last = jobs.newest_submission(run)
    if last is None or last.where != "slurm":
        return None
    said = failures.last_attempt(failures.batch_log(run, last.job))
    # If memory is the cause, SLURM ends all ranks of the node, in any order.
    return failures.out_of_memory(said) or failures.ended_by_srun(said)


def to_json(run: RunDirectory) -> dict[str, Any]:
    """The failures of the newest attempt, in order, and srun's message on the first rank that ended."""
    run.read_config()
    return {"failures": [asdict(report) for report in _of_newest_attempt(run)], "srun": _lost(run)}


def lines(run: RunDirectory, rank: int | None, count: int) -> list[str]:
    """The lines for a person.

    Args:
        rank: the rank whose lines to show; None for the one that failed first, else rank 0.
        count: number of lines.

    Raises:
        UserError: if there is no run, or this rank has written nothing.
    """
    run.read_config()
    reports, lost = _of_newest_attempt(run), _lost(run)
    first = reports[0] if reports else None
    told = [] if first is None or (first.echo and not first.apart and lost) else _described(first)
    if not told and lost:
        told = [f"the first rank to end, by srun: {lost}"]
    if not told and first:
        told = _described(first)
    if others := len(reports) - 1 if first and not first.apart else 0:  # the others report the same
        told.append(f"{others} more rank{'s' if others > 1 else ''} failed after it: errors/ has their reports")
    shown = rank if rank is not None else first.rank if first and (first.apart or not first.echo) else 0
    return [*map(printable, told), *_tail(run, shown, count, wanted=rank is not None)]


def _described(report: Report) -> list[str]:
    if report.apart:
        return [report.message]  # not a bug: the message is complete
    try:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report.time))
    except (ValueError, OverflowError, OSError):  # a time beyond the calendar
        at = str(report.time)
    return [
        f"rank {report.rank} on {report.host} failed first, at {at}: {report.kind}: {report.message}",
        report.traceback.rstrip(),
    ]


def _tail(run: RunDirectory, rank: int, count: int, wanted: bool) -> list[str]:
    path = run.logs / f"rank-{rank}.log"
    if not path.is_file():
        path = _here(run) or path
    if not path.is_file():
        if wanted:
            raise UserError(f"{path}: there is no such file: rank {rank} has written nothing. Give another --rank.")
        return ["no rank has written anything yet"]
    with open(path, errors="replace") as file:
        last = deque((line.rstrip("\n") for line in file), maxlen=count)
    return [f"--- {path}, the last {len(last)} lines", *last]


def _here(run: RunDirectory) -> Path | None:
    """The log of a run submitted with --local, whose ranks share one."""
    last = jobs.newest_submission(run)
    return failures.batch_log(run, last.job) if last is not None and last.where == "local" else None
