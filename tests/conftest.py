"""Fixtures: a folder to run in, a pool of ranks, and the guard that no test leaves a process behind."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.support.rank_pool import Pool
from tests.support.running import FORGE, SESSION, answer, disk_in_memory
from tests.support.slurm_cluster import accounted_cluster, cluster  # noqa: F401 (fixtures)

# The settings of whoever runs the tests must not fill the recipes of the tests.
os.environ["ACCELERATE_CONFIG_FILE"] = ""


def _ours() -> set[int]:
    """Processes that descend from a command of this session, known by a word in their environment."""
    word, found = f"{SESSION}={os.getpid()}".encode(), set()
    # Read as it stands, for a test that takes a millisecond would wait for psutil. That of a zombie is empty.
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            if word in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                found.add(int(process))
        except OSError:
            continue  # it has ended meanwhile, or is another user's
    return found - {FORGE.pid}


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """After every test, whatever it started has ended."""
    before = _ours()
    yield
    deadline = time.monotonic() + 10
    while (left := _ours() - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    commands = [_killed(process) for process in left]  # they would take the cores from all tests that follow
    assert not left, f"left running: {commands}"


def _killed(number: int) -> list[str] | None:
    """The command line of a process, which is killed."""
    if (process := answer(lambda: psutil.Process(number))) is None:
        return None
    command = answer(process.cmdline)
    answer(process.kill)
    return command


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Four processes that become ranks when a test asks for them."""
    ranks = Pool(4)
    yield ranks
    ranks.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    with disk_in_memory(tmp_path / "disk", 8) as folder:
        yield folder


@pytest.fixture(scope="session", autouse=True)
def forge_ends() -> Iterator[None]:
    """The process that forks others ends with the session."""
    yield
    FORGE.close()
