"""Fixtures: a folder to run in, a pool of ranks, and the guard that no test leaves a process behind."""

import os
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.rank_pool import Pool
from tests.running import FORGE, SESSION
from tests.slurm_cluster import accounted_cluster, cluster  # noqa: F401 (fixtures)

# The settings of whoever runs the tests must not fill the recipes of the tests.
os.environ["ACCELERATE_CONFIG_FILE"] = ""


def _ours() -> set[int]:
    """Processes that descend from a command of this session, known by a word in their environment."""
    found = set()
    for process in psutil.process_iter(["pid", "status"]):
        try:
            if process.environ().get(SESSION) == str(os.getpid()) and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except psutil.Error:
            continue  # it has ended meanwhile, or is another user's
    return found - {FORGE.pid}


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


@pytest.fixture(scope="session", autouse=True)
def forge_ends() -> Iterator[None]:
    """The process that forks others ends with the session."""
    yield
    FORGE.close()
