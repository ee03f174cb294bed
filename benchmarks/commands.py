"""`phalanx` as benchmarks run it: how long a run took, and how much memory; by commands, or by forks where speed matters."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.in_turns import Started
from benchmarks.support.forking import ONE_THREAD, fork, fork_ranks, wait_for
from phalanx.dist.storage.json_lines import read_lines

ROOT = Path(__file__).resolve().parent.parent
_LEFT_OUT = ("OMP_NUM_THREADS", "ACCELERATE_CONFIG_FILE")


class Phalanx(Protocol):
    """How benchmarks run the command `phalanx`."""

    def train(self, arguments: Sequence[str], ranks: int) -> tuple[float, int]:
        """`phalanx train ARGUMENTS` to its end: seconds, and the peak memory in MB of the largest process."""
        ...

    def run(self, *arguments: str) -> str:
        """`phalanx ARGUMENTS` to its end; what it printed."""
        ...

    def python(self, program: str, arguments: Sequence[str], threads: int) -> tuple[float, int]:
        """`python benchmarks/PROGRAM.py ARGUMENTS`; as `train` does."""
        ...


class Commands:
    """Starts commands as a user does."""

    def train(self, arguments: Sequence[str], ranks: int) -> tuple[float, int]:
        return self._measured(self.of_training(arguments, ranks).command)

    def of_training(self, arguments: Sequence[str], ranks: int) -> Started:
        return Started([*_PHALANX, "train", *arguments, "--nproc", str(ranks)], _environment())

    def run(self, *arguments: str) -> str:
        return subprocess.run([*_PHALANX, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout

    def python(self, program: str, arguments: Sequence[str], threads: int) -> tuple[float, int]:
        return self._measured(self.of_python(program, arguments, threads).command, OMP_NUM_THREADS=str(threads))

    def of_python(self, program: str, arguments: Sequence[str], threads: int) -> Started:
        command = [sys.executable, str(ROOT / f"benchmarks/{program}.py"), *arguments]
        return Started(command, _environment(OMP_NUM_THREADS=str(threads)))

    def _measured(self, command: Sequence[str], **environment: str) -> tuple[float, int]:
        begun = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(**environment), stdout=sys.stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
        return time.monotonic() - begun, usage.ru_maxrss // 1024


def _environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in _LEFT_OUT} | more


_PHALANX = [sys.executable, "-m", "phalanx.launch.main"]


class Forks:
    """Has the same done by forks of this process, which spares seconds of starting: for `--smoke`.

    Make one before numpy and torch are imported: their threads would be there before a fork.
    """

    def __init__(self) -> None:
        os.environ |= ONE_THREAD
        import torchvision.transforms.v2  # noqa: F401

        import phalanx.launch.say
        import phalanx.train.start  # noqa: F401

    def train(self, arguments: Sequence[str], ranks: int) -> tuple[float, int]:
        from phalanx.launch import train

        return self._forked(lambda folder: fork_ranks(lambda rank: train.main(arguments), ranks, folder))[1:]

    def run(self, *arguments: str) -> str:
        from phalanx.launch import main

        return self._one(lambda: main.main(arguments))[0]

    def python(self, program: str, arguments: Sequence[str], threads: int) -> tuple[float, int]:
        from importlib import import_module

        module = import_module(f"benchmarks.{program}")
        return self._one(lambda: module.main(arguments))[1:]

    def _one(self, work: Callable[[], int]) -> tuple[str, float, int]:
        return self._forked(lambda folder: [fork(work, ROOT, dict(os.environ), folder / "rank-0.log", folder / "errors.log")])

    def _forked(self, start: Callable[[Path], list[int]]) -> tuple[str, float, int]:
        """What the first process printed, seconds, and the peak memory of the largest."""
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="phalanx-forks-") as folder:
            ended = wait_for(start(Path(folder)))
            if any(code for code, _ in ended):
                said = "\n".join(log.read_text() for log in sorted(Path(folder).glob("*.log")))
                raise SystemExit(f"exit codes {[code for code, _ in ended]}:\n{said}")
            printed = Path(folder, "rank-0.log").read_text()
        return printed, time.monotonic() - begun, max(peak for _, peak in ended)


def file_name(text: str) -> str:
    return "-".join(text.replace(",", "").lower().split())


def lines(path: Path) -> list[dict[str, Any]]:
    return list(read_lines(path)) if path.exists() else []


def spent(run: Path) -> float:
    """Seconds that earlier attempts took, from the start to what they last logged before their end or the kill."""
    total, begun, last = 0.0, None, 0.0
    marks = [(e["time"], e["event"]) for e in lines(run / "events.jsonl")]
    marks += [(line["time"], "line") for line in lines(run / "metrics.jsonl")]
    for when, what in sorted(marks):
        if what in ("start", "resume"):
            total += last - begun if begun is not None else 0.0
            begun = when
        last = when
    return total + (last - begun if begun is not None else 0.0)
