"""The whole suite, in lanes that run beside each other, since many tests wait for processes more than they compute.

    python -m tests [arguments of pytest ...]

A lane is a pytest of its own: the tests that need SLURM; those that start commands; all others. While they run, a line says how
far each is; what they reported comes at the end, with the slowest tests of each. Exit code 1 where any test failed.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_COMMANDS = ("tests/launch", "tests/test_docs.py", "tests/benchmarks", "tests/test_habits.py")
_LANES = {
    "slurm": ["-m", "slurm", "tests"],
    "commands": ["-m", "not slurm", *_COMMANDS],
    "others": ["-m", "not slurm", "tests", *(f"--ignore={path}" for path in _COMMANDS)],
}
# Less important than SLURM's daemons, whose timeouts are in seconds.
_NICENESS = {"slurm": 0, "commands": 5, "others": 6}
_SECONDS = 30.0  # between two lines where the output is not a terminal
_DURATIONS = "--durations=15"
# 5: pytest found no test, since the arguments chose some of another lane.
_PASSED = (0, 5)


@dataclass
class Lane:
    """A pytest under way, and what it has printed so far."""

    name: str
    process: "subprocess.Popen[bytes]"
    output: Path
    seconds: float = 0.0

    def read(self) -> str:
        return self.output.read_text(errors="replace")

    def progress(self) -> str:
        """How far it is: pytest's last percentage, or that it has ended."""
        if self.process.poll() is not None:
            return f"{self.name} {'passed' if self.process.returncode in _PASSED else 'FAILED'} after {_minutes(self.seconds)}"
        percents = re.findall(r"\[ *(\d+)%\]", self.read())
        return f"{self.name} {percents[-1] if percents else 0} %"


def _start(name: str, arguments: Sequence[str], folder: Path) -> Lane:
    # Without pytest's cache, which several would write at once.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", _DURATIONS, *_LANES[name], *arguments]
    path, niceness = folder / name, _NICENESS[name]
    with open(path, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=lambda: os.nice(niceness))
    return Lane(name, process, path)


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {int(seconds % 60):02} s"


def _watch(lanes: Sequence[Lane]) -> None:
    """Says how far the lanes are until all have ended: on a terminal in one line that is rewritten."""
    terminal, begun, told = sys.stdout.isatty(), time.monotonic(), time.monotonic()
    while running := [lane for lane in lanes if lane.process.poll() is None]:
        for lane in running:
            lane.seconds = time.monotonic() - begun
        if time.monotonic() - told >= (1.0 if terminal else _SECONDS):
            told = time.monotonic()
            line = f"{_minutes(told - begun)}: {', '.join(lane.progress() for lane in lanes)}"
            print(f"\r{line:100}" if terminal else line, end="" if terminal else "\n", flush=True)
        time.sleep(0.2)
    if terminal:
        print()


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        lanes = [_start(name, arguments, Path(folder)) for name in _LANES]
        try:
            _watch(lanes)
        finally:
            for lane in lanes:
                lane.process.terminate()
        for lane in lanes:
            print(f"\n-- {lane.progress()}\n{lane.read()}", end="")
        print(f"\n{'; '.join(lane.progress() for lane in lanes)}")
    return int(any(lane.process.returncode not in _PASSED for lane in lanes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
