"""Processes that leave nothing behind: children that die with their parent. Linux only; no torch here."""

import ctypes
import multiprocessing
import os
import signal

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
    for child in multiprocessing.active_children():
        child.kill()
