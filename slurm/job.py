"""The object that submitit runs as every task of a job: it becomes a rank."""

import os
import signal
import sys
from dataclasses import dataclass
from typing import NoReturn

from phalanx.dist.processes.stop import SIGNALS


@dataclass(frozen=True)
class Rank:
    """Pickled by submitit, so it holds only the path of a file.

    Attributes:
        config: the resolved configuration.
    """

    config: str

    def __call__(self) -> NoReturn:
        """Becomes the rank, so that its exit code and its signals are the task's own, without submitit in between."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # replaces submitit's handlers; the rank installs its own at once
        os.execv(sys.executable, [sys.executable, "-u", "-m", "phalanx.launch.train", "--stored", self.config])


@dataclass(frozen=True)
class LocalRun:
    """A run on this machine by submitit's local executor: one task, which starts the ranks.

    Attributes:
        config: the resolved configuration.
        processes: number of ranks.
    """

    config: str
    processes: int

    def __call__(self) -> NoReturn:
        """Becomes `phalanx train`."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        train = ["-m", "phalanx.launch.main", "train", "--stored", self.config, "--nproc", str(self.processes)]
        os.execv(sys.executable, [sys.executable, "-u", *train])
