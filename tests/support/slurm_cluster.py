"""Virtual clusters to test on: a real SLURM, whose nodes and GPUs are not. Two are shared by all tests of a session."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from tests.support.running import ROOT, clean_environment

SCRIPTS = ROOT / "slurm/virtual_cluster"
TIMEOUT_S = 60


def available() -> str | None:
    """Why a virtual cluster cannot run here; None if it can."""
    check = subprocess.run(["bash", SCRIPTS / "start.sh", "--check"], capture_output=True, text=True, timeout=TIMEOUT_S)
    return None if check.returncode == 0 else check.stderr.strip()


def _output(command: Sequence[str], **variables: str) -> str:
    """Runs a command to its good end; returns what it printed."""
    done = subprocess.run(
        command,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{shlex.join(command)}: exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


class VirtualCluster:
    """A cluster that runs while the context lasts, in a folder with a short name: names of sockets have at most 107 letters.

    Args:
        accounting: whether a slurmdbd keeps accounts, so that sacct answers.
        hosts: whether each node has a network of its own, whose link can be cut.

    Attributes:
        conf: value of the environment variable SLURM_CONF, by which SLURM's commands, and what they start, find this cluster.
    """

    def __init__(self, accounting: bool = False, hosts: bool = False):
        self._directory = Path(tempfile.mkdtemp(prefix="phalanx-slurm-"))
        self._accounting, self._hosts = accounting, hosts
        self.conf = str(self._directory / "etc/slurm.conf")

    def __enter__(self) -> "VirtualCluster":
        try:
            if self._hosts:
                self.link("up", 2)
            self._script("start.sh")
        except subprocess.TimeoutExpired:
            self.stop()  # the script was killed before it could clean up
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()
        if kind is None:  # else its logs are of use
            shutil.rmtree(self._directory)

    def stop(self) -> None:
        """Ends its jobs and its daemons."""
        self._script("stop.sh")
        if self._hosts:
            self.link("down")

    def link(self, what: str, *node: int) -> None:
        """`up`, `cut`, `mend`, `wall`, `down`: what hosts.sh does to the network."""
        _output(["bash", str(SCRIPTS / "hosts.sh"), what, *map(str, node)])

    def ask(self, *command: str) -> str:
        """What a command of SLURM's prints."""
        return _output(command, SLURM_CONF=self.conf)

    def processes(self) -> list[psutil.Process]:
        """All that know this cluster: daemons, jobs, and commands that ask it something."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SLURM_CONF") == self.conf:
                    found.append(process)
            except psutil.Error:
                continue  # it has ended meanwhile, or is another user's
        return found

    def _script(self, name: str) -> None:
        variables = {"ACCOUNTING": str(int(self._accounting)), "NAMESPACES": str(int(self._hosts))}
        _output(["bash", str(SCRIPTS / name), str(self._directory)], **variables)


def insist() -> None:
    """Skips where no cluster can run; fails where everything is tested, as a skip would go unseen there."""
    if (reason := available()) is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def _shared(accounting: bool) -> Iterator[VirtualCluster]:
    insist()
    with VirtualCluster(accounting) as running:
        yield running
        left = running.ask("squeue", "--noheader")
    assert not left, f"jobs left in the queue:\n{left}"
    assert not running.processes()


@pytest.fixture(scope="session")
def cluster() -> Iterator[VirtualCluster]:
    """Two nodes with four CPUs and two GPUs each. A test that does it harm starts one of its own."""
    yield from _shared(accounting=False)


@pytest.fixture(scope="session")
def accounted_cluster() -> Iterator[VirtualCluster]:
    """The same with a slurmdbd, so that sacct answers."""
    yield from _shared(accounting=True)
