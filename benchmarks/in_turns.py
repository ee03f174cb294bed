"""Runs several commands on one machine in turns: each has it alone for some seconds, while the others are stopped.

A machine whose speed drifts within the hour is then equally fast for all of them. A process that is stopped for long must bear
it: clocks go on.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_POLL_S = 0.05


class Started(NamedTuple):
    """A command with its environment; None for this process's."""

    command: Sequence[str]
    environment: Mapping[str, str] | None = None


@dataclass
class _Running:
    started: Started
    process: subprocess.Popen[bytes] | None = None
    seconds: float = 0.0
    peak_mb: int = 0
    ended: bool = False
    turns: int = field(default=0)


def in_turns(commands: Mapping[str, Started], turn_s: float, cwd: Path) -> dict[str, tuple[float, int]]:
    """Runs all commands to their ends.

    Returns:
        For each name the seconds of its turns, and the peak memory in MB of its first process.

    Raises:
        SystemExit: if one of them fails; the others are killed.
    """
    running = {name: _Running(started) for name, started in commands.items()}
    try:
        while waiting := [one for one in running.values() if not one.ended]:
            for one in waiting:
                _turn(one, turn_s, cwd)
    finally:
        for one in running.values():
            if one.process is not None and not one.ended:
                _signal(one.process.pid, signal.SIGKILL)
                one.process.wait()
    return {name: (one.seconds, one.peak_mb) for name, one in running.items()}


def _turn(one: _Running, turn_s: float, cwd: Path) -> None:
    begun = time.monotonic()
    if one.process is None:
        environment = None if one.started.environment is None else dict(one.started.environment)
        one.process = subprocess.Popen(one.started.command, cwd=cwd, env=environment, stdout=sys.stderr)
    else:
        _signal(one.process.pid, signal.SIGCONT)
    one.turns += 1
    while time.monotonic() - begun < turn_s:
        pid, status, usage = os.wait4(one.process.pid, os.WNOHANG)
        if pid:
            one.ended, one.peak_mb = True, usage.ru_maxrss // 1024
            one.process.returncode = os.waitstatus_to_exitcode(status)
            break
        time.sleep(_POLL_S)
    one.seconds += time.monotonic() - begun
    if one.ended and one.process.returncode:
        raise SystemExit(f"{' '.join(one.started.command)}: exit code {one.process.returncode}")
    if not one.ended:
        _signal(one.process.pid, signal.SIGSTOP)


def _signal(root: int, number: signal.Signals) -> None:
    """Signals a process and all that descend from it; again until no new ones appear."""
    told: set[int] = set()
    while new := _family(root) - told:
        for pid in sorted(new):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        told |= new


def _family(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                after_name = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry)] = int(after_name[1])
    family, grew = {root}, True
    while grew:
        children = {pid for pid, parent in parents.items() if parent in family} - family
        family, grew = family | children, bool(children)
    return family
