"""Checks that go wrong on purpose: whether the harness reports them, and goes on, is shown with every run."""

import os
import signal
import time
from typing import Any

from benchmarks.gpu_checks.check import Bench


def is_killed(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """As by the kernel where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    return True, {}


def raises(bench: Bench) -> tuple[bool, dict[str, Any]]:
    raise ValueError("raised on purpose")


def hangs(bench: Bench) -> tuple[bool, dict[str, Any]]:
    """With a process of its own that holds the pipe of its results."""
    if os.fork() == 0:
        time.sleep(3600)
    time.sleep(3600)
    return True, {}
