"""Processes that leave nothing behind: children that die with their parent. Linux only; no torch here."""

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
    """This process is killed when its parent ends, however that ends, collective or not.

    Args:
        parent: the parent's process id where it is known, so that one that ended just before is noticed.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    now = os.getppid()
    if now == 1 or (parent is not None and now != parent):
        os._exit(1)


def kill_children() -> None:
    """Ends the loader processes that are left after a failure: they ignore SIGTERM, and Python would wait for them at exit."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise, wherever this process is by then
    for child in multiprocessing.active_children():
        child.kill()


def born(process: int) -> int:
    """When the kernel started a process, in clock ticks; 0 for none. No other process of that number has the same."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def kill_rank(process: int, started: int, start: str) -> bool:
    """Kills a rank of this node that does not answer, if that is what a process is; returns whether.

    Args:
        started: when the kernel started it (`born`).
        start: the start of the run that it must belong to (`environment.start_of_run`).
    """
    if process in (os.getpid(), os.getppid()):
        return False
    with suppress(OSError):  # it has ended
        handle = os.pidfd_open(process)  # this process and no later one of that number
        try:
            if started and born(process) == started and _is_rank(process, start):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False


def _is_rank(process: int, start: str) -> bool:
    """Whether a process is this user's, and was started as a rank of the same start of a run."""
    folder = Path(f"/proc/{process}")
    if folder.stat().st_uid != os.geteuid():
        return False
    pairs = (entry.partition("=") for entry in os.fsdecode((folder / "environ").read_bytes()).split("\0"))
    told = {name: value for name, _, value in pairs}
    return any(told.get(name) for name in ("RANK", "SLURM_PROCID")) and start_of_run(told) == start
