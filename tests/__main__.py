"""The whole suite in parts, three at a time, since many tests wait for processes more than they compute.

    python -m tests [arguments of pytest ...]

A part is a pytest of its own: the tests that need SLURM, or those of a folder. The longest parts start first, and the next one
starts when one has ended. While they run, a line says how far each is; what they reported comes at the end, with the slowest
tests of each. Exit code 1 where any test failed.
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

from phalanx.dist.processes.children import die_with_parent

# The longest first. `rest` takes whatever no other part names, so that no test can be forgotten.
_KILLS = [f"tests/launch/test_{name}.py" for name in ("exact_resume", "kills_while_saving", "detection", "own_network")]
_FOLDERS = {
    "launch": ["tests/launch", *(f"--ignore={path}" for path in _KILLS)],
    "dist": ["tests/dist"],
    "networks": ["tests/models", "tests/train", "tests/data"],
    "kills": _KILLS,
    "benchmarks": ["tests/benchmarks"],
    "docs": ["tests/test_docs.py", "tests/test_examples.py", "tests/test_extending.py", "tests/test_habits.py"],
}
_NAMED = [path for paths in _FOLDERS.values() for path in paths if not path.startswith("--")]
_PARTS = {
    "slurm": ["-m", "slurm", "tests"],
    **{name: ["-m", "not slurm", *paths] for name, paths in _FOLDERS.items()},
    "rest": ["-m", "not slurm", "tests", *(f"--ignore={path}" for path in _NAMED)],
}
_AT_ONCE = 3
# SLURM's daemons, whose timeouts are in seconds, come before all other tests.
_NICENESS = {"slurm": 0}
_OTHERS = 5
_SECONDS = 30.0  # between two lines where the output is not a terminal
_DURATIONS = "--durations=15"
# 5: pytest found no test, since the arguments chose some of another part.
_PASSED = (0, 5)


@dataclass
class Part:
    """A pytest under way, or ended, and what it has printed so far."""

    name: str
    process: "subprocess.Popen[bytes]"
    output: Path
    begun: float
    ended: float | None = None

    def read(self) -> str:
        return self.output.read_text(errors="replace")

    def running(self) -> bool:
        if self.ended is None and self.process.poll() is not None:
            self.ended = time.monotonic()
        return self.ended is None

    def passed(self) -> bool:
        return self.process.returncode in _PASSED

    def percent(self) -> int:
        """How much of it pytest has run."""
        percents = re.findall(r"\[ *(\d+)%\]", self.read())
        return int(percents[-1]) if percents else 0

    def verdict(self) -> str:
        word = "passed" if self.passed() else "FAILED"
        return f"{self.name} {word} after {_minutes((self.ended or time.monotonic()) - self.begun)}"


def _start(name: str, arguments: Sequence[str], folder: Path) -> Part:
    # Without pytest's cache, which several would write at once.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", _DURATIONS, *_PARTS[name], *arguments]
    path, parent = folder / name, os.getpid()

    def begin() -> None:
        die_with_parent(parent)
        os.nice(_NICENESS.get(name, _OTHERS))

    with open(path, "w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=begin)
    return Part(name, process, path, time.monotonic())


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)} min {int(seconds % 60):02} s"


def _line(parts: Sequence[Part], begun: float) -> str:
    ended = [part for part in parts if not part.running()]
    failed = [part.name for part in ended if not part.passed()]
    running = ", ".join(f"{part.name} {part.percent()} %" for part in parts if part.running())
    return (
        f"{_minutes(time.monotonic() - begun)}: {len(ended)} of {len(_PARTS)} parts have ended"
        f"{' (FAILED: ' + ', '.join(failed) + ')' if failed else ''}; {running}"
    )


def _run(parts: list[Part], arguments: Sequence[str], folder: Path) -> None:
    """Runs all parts, and says how far they are: on a terminal in one line that is rewritten."""
    terminal, begun, printed, waiting = sys.stdout.isatty(), time.monotonic(), time.monotonic(), list(_PARTS)
    while waiting or any(part.running() for part in parts):
        while waiting and sum(part.running() for part in parts) < _AT_ONCE:
            parts.append(_start(waiting.pop(0), arguments, folder))
        if time.monotonic() - printed >= (1.0 if terminal else _SECONDS):
            printed = time.monotonic()
            line = _line(parts, begun)
            print(f"\r{line:120}" if terminal else line, end="" if terminal else "\n", flush=True)
        time.sleep(0.2)
    if terminal:
        print()


def main(arguments: Sequence[str]) -> int:
    parts: list[Part] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run(parts, arguments, Path(folder))
        finally:
            for part in parts:
                part.process.terminate()
        for part in parts:
            print(f"\n-- {part.verdict()}\n{part.read()}", end="")
    print(f"\n{'; '.join(part.verdict() for part in parts)}")
    return int(not all(part.passed() for part in parts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
