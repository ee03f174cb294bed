"""Running Phalanx as its users do: real commands, real ranks; reading what they left on the disk."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy
import psutil
import pytest

from benchmarks.support import clean
from benchmarks.support.forking import SCRIPT, Forge, Forked
from benchmarks.support.run_files import assert_bitwise, lines, sample_ids, scalars, tensors  # noqa: F401 (for tests)
from phalanx.dist.checkpoint.directory import steps

ROOT = Path(__file__).resolve().parents[2]
DIGITS = str(ROOT / "benchmarks/support/narrow/digits.yaml")  # trained by most tests
RESNET18 = str(ROOT / "configs/recipes/digits_resnet18.yaml")
PHALANX = [sys.executable, "-m", "phalanx.launch.main"]
FEW_EVALUATED = "data.val_fraction=0.03"  # of the digits, where a test does not look at what they say
TIMEOUT_S = 250  # two workers share the cores
SESSION = "PHALANX_TEST_SESSION"  # marks every process that descends from a command of this session


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what a launcher or a caller's taste would change, and marked with this session."""
    return clean.environment() | {SESSION: str(os.getpid()), "PHALANX_OWN_CODE": str(ROOT / "benchmarks/support/narrow")} | more


FORGE = Forge(clean_environment)

Answer = TypeVar("Answer")


def answer(question: Callable[[], Answer]) -> Answer | None:
    """What a process says of itself; None where it has ended meanwhile, even if nobody has taken notice of that yet."""
    try:
        return question()
    except psutil.NoSuchProcess:
        return None


def alive(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    """Those that have not ended."""
    return {process for process in processes if answer(process.status) not in (None, psutil.STATUS_ZOMBIE)}


@dataclass
class Command:
    """A command under way, in a process group of its own; or what was forked instead."""

    process: "subprocess.Popen[str] | Forked"
    output: str = ""
    errors: str = ""
    _family: set[psutil.Process] = field(default_factory=set)

    def family(self) -> set[psutil.Process]:
        """The process and all that it has been seen to start."""
        for number in self.process.processes if isinstance(self.process, Forked) else [self.process.pid]:
            try:
                parent = psutil.Process(number)
                self._family |= {parent, *parent.children(recursive=True)}
            except psutil.NoSuchProcess:
                continue
        return alive(process for process in self._family if process.is_running())

    def kill_all(self) -> None:
        """kill -9, every process of it."""
        for process in self.family():
            answer(process.kill)
        self.wait()

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        try:
            self.output, self.errors = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise AssertionError(f"hung: {self.process.args}\n{self.output}\n{self.errors}") from None
        return self.process.returncode

    def until(self, condition: Callable[[], bool], timeout: float = TIMEOUT_S) -> None:
        """Waits for something to come true while the command runs."""
        deadline = time.monotonic() + timeout
        while not condition():
            self.family()
            if self.process.poll() is not None or time.monotonic() > deadline:
                ended = self.process.poll() is not None
                if not ended:
                    self.kill_all()
                else:
                    self.wait()
                raise AssertionError(f"{'ended' if ended else 'hung'} too early: {self.output}\n{self.errors}")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def is_saved(run_directory: Path) -> bool:
    """Whether there is a checkpoint, which is written in the background, to resume from."""
    return bool(steps(run_directory / "checkpoints"))


def start(command: Sequence[str | Path], cwd: Path, **environment: str) -> Command:
    """Starts a command in a folder."""
    process = subprocess.Popen(
        [str(c) for c in command],
        cwd=cwd,
        env=clean_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return Command(process)


def run(command: Sequence[str | Path], cwd: Path, expect: int | None = 0, **environment: str) -> Command:
    """Runs a command to its end, and asserts its exit code unless `expect` is None."""
    return _to_its_end(start(command, cwd, **environment), expect)


def phalanx(*arguments: str | Path, cwd: Path, expect: int | None = 0, **environment: str) -> Command:
    """`phalanx ARGUMENTS`, to its end, in a forked process."""
    return _to_its_end(forked(*arguments, cwd=cwd, **environment), expect)


def ranks(count: int, *arguments: str | Path, cwd: Path, expect: int | None = 0) -> Command:
    """What `phalanx train ARGUMENTS --nproc COUNT` makes its ranks do, to its end, in forked ones; `--resume RUN` too."""
    return _to_its_end(forked(*arguments, cwd=cwd, count=count), expect)


def forked(*arguments: str | Path, cwd: Path, count: int = 0, **environment: str) -> Command:
    """Starts `phalanx ARGUMENTS`, or so many ranks of `phalanx.launch.train`, in forked processes."""
    return Command(FORGE.start([str(a) for a in arguments], cwd, clean_environment(**environment), count))


def forked_script(script: str | Path, *arguments: str, cwd: Path, count: int = 1) -> Command:
    """Starts `python SCRIPT ARGUMENTS` in a forked process, or several as torchrun starts them."""
    words = [str(script), *arguments]
    return Command(FORGE.start(words, cwd, clean_environment(), count, SCRIPT))


def run_script(script: str | Path, *arguments: str, cwd: Path, count: int = 1, expect: int = 0) -> Command:
    """The same to its end."""
    return _to_its_end(forked_script(script, *arguments, cwd=cwd, count=count), expect)


def _to_its_end(running: Command, expect: int | None) -> Command:
    code = running.wait()
    assert expect is None or code == expect, f"exit code {code}:\n{running.output}\n{running.errors}"
    return running


def worst_difference(one: dict[str, numpy.ndarray], other: dict[str, numpy.ndarray]) -> float:
    """The largest max|a-b| / max|b| over all tensors."""
    assert one.keys() == other.keys()
    return max(float(abs(one[n] - other[n]).max() / max(abs(other[n]).max(), 1e-300)) for n in other if other[n].size)


@contextmanager
def disk_in_memory(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of so many MB at a folder; a test that cannot have one is skipped, but in CI fails."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode and os.environ.get("CI") != "true":
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    assert mounted.returncode == 0, mounted.stderr
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
