"""Children that die with their parent. Linux only; no torch here."""

import ctypes
import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

from phalanx.dist.processes.environment import start_of_run

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """This process is killed when its parent ends in any way, even while it is in a collective.

    Args:
        parent: the parent's process id if known, so that a parent that has just ended is noticed.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    now = os.getppid()
    if now == 1 or (parent is not None and now != parent):
        os._exit(1)


def kill_children() -> None:
    """Kills the loader processes that are left after a failure: they ignore SIGTERM, and Python would wait for them at exit."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise anywhere in this process
    for child in multiprocessing.active_children():
        child.kill()


def born(process: int) -> int:
    """When the kernel started a process, in clock ticks; 0 for none. With the id it is unique."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def kill_rank(process: int, started: int, start: str) -> bool:
    """Kills a process of this node if it is a rank of the given start of a run; returns whether it did.

    Args:
        started: when the kernel started it (`born`).
        start: the run's start that it must belong to (`environment.start_of_run`).
    """
    if process in (os.getpid(), os.getppid()):
        return False
    with suppress(OSError):  # it is gone
        handle = os.pidfd_open(process)  # this process, not a later one of the same id
        try:
            if started and born(process) == started and _is_rank(process, start):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False


def _is_rank(process: int, start: str) -> bool:
    """Whether a process is this user's, and a rank of the given start of a run."""
    folder = Path(f"/proc/{process}")
    if folder.stat().st_uid != os.geteuid():
        return False
    pairs = (entry.partition("=") for entry in os.fsdecode((folder / "environ").read_bytes()).split("\0"))
    variables = {name: value for name, _, value in pairs}
    return any(variables.get(name) for name in ("RANK", "SLURM_PROCID")) and start_of_run(variables) == start
