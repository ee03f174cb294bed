"""phalanx checkpoint verify RUN [--step N] [--json] | phalanx checkpoint verify CHECKPOINT"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phalanx.configs.errors import ExitCode, UserError, printable
from phalanx.dist.checkpoint import directory
from phalanx.dist.checkpoint.tools import choose
from phalanx.dist.checkpoint.tools.verify import Verified, bytes_of, verify
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.arguments import Parser


def main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="phalanx checkpoint verify", description="Reads checkpoints and compares them with their checksums.")
    parser.add_argument("run", metavar="RUN", help="the run directory, or a checkpoint's folder")
    parser.add_argument("--step", type=int, metavar="N", help="only this step (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_intermixed_args(arguments)
    paths = _paths(given.run, given.step)
    if not paths and not given.json:
        print(f"{given.run} has no checkpoint yet")
    meter = _Meter(sum(map(bytes_of, paths)), shown=sys.stdout.isatty() and not given.json)
    found = []
    for path in paths:
        one = verify(path, meter.advance)
        meter.clear()
        if one.problems and not path.exists():
            continue  # a training run has just pruned it
        found.append((path, one))
        if not given.json:
            print(printable("\n".join(_lines(path, one))), flush=True)
    if given.json:
        print(json.dumps([_as_dict(path, one) for path, one in found], indent=1))
    return ExitCode.BAD_INPUT if any(one.problems for _, one in found) else ExitCode.DONE


def _paths(text: str, step: int | None) -> list[Path]:
    path = Path(text)
    if not RunDirectory(path).exists() and choose.is_checkpoint(path):
        if step is not None:
            raise UserError(
                f"{text} is a checkpoint's folder, which has one step. Leave out --step, or give the run directory."
            )
        return [path]
    run = choose.run_at(text)
    if step is not None:
        return [choose.step_path(run, step)]
    return [directory.step_directory(run.checkpoints, there) for there in directory.steps(run.checkpoints)]


def _lines(path: Path, one: Verified) -> list[str]:
    if one.problems:
        return [f"{path}: broken: {problem.sentence}" for problem in one.problems]
    counted = ", ".join(f"{n} {what}{'s' if n != 1 else ''}" for n, what in ((one.files, "file"), (one.blocks, "block")))
    return [f"{path}: intact ({counted}, {one.bytes / 1e6:.1f} MB)"]


def _as_dict(path: Path, one: Verified) -> dict[str, Any]:
    problems = [{"problem": p.sentence, "file": p.file, "block": p.block} for p in one.problems]
    return {"path": str(path), "intact": not problems, "bytes": one.bytes, "files": one.files, "problems": problems}


class _Meter:
    """A progress line: bytes read, rate, remaining time."""

    def __init__(self, total: int, shown: bool):
        self._total, self._shown, self._done = total, shown, 0
        self._start = self._said = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if not self._shown or now - self._said < 0.1:
            return
        self._said = now
        rate = self._done / (now - self._start)
        remaining = max(0, self._total - self._done) / rate
        sys.stdout.write(
            f"\r{self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB, {rate / 1e6:.0f} MB/s, {remaining:.0f} s left\x1b[K"
        )
        sys.stdout.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stdout.write("\r\x1b[K")
