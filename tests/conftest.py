"""Fixtures: a folder to run in, a pool of ranks, and the guard that no test leaves a process behind."""

import os
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.rank_pool import Pool


def _ours() -> set[int]:
    """Processes of Phalanx that are running on this machine, but for the pool of ranks."""
    found = set()
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        if "phalanx." in words and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.add(process.pid)
    return found


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """After every test, whatever it started has ended."""
    before = _ours()
    yield
    deadline = time.monotonic() + 10
    while (left := _ours() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, f"left running: {[psutil.Process(p).cmdline() for p in left if psutil.pid_exists(p)]}"


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Four processes that become ranks when a test asks for them."""
    ranks = Pool(4)
    yield ranks
    ranks.close()
