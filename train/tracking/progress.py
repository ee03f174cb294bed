"""The progress display: a line per interval, and on a terminal below them one that is rewritten."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from phalanx.dist.processes.output import QUIET

_INTERVAL_S = 0.5
_NEEDS_ATTENTION = "phalanx: "


def duration(seconds: float) -> str:
    """0:00:07 as `0:07`, an hour as `1:00:00`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"


class ProgressLine:
    """Step, rate and remaining time. Silent if `shown` is false.

    Args:
        log: a file to which the lines that stay are appended too; its folder is made.
    """

    def __init__(self, last_step: int, first_step: int, shown: bool, out: TextIO | None = None, log: Path | None = None):
        self._last, self._first, self._shown, self._out = last_step, first_step, shown, out or sys.stdout
        self._is_quiet, self._log = bool(os.environ.get(QUIET)), log if shown else None
        self._rewrites = self._out.isatty() and not self._is_quiet
        self._start = time.monotonic()
        self._before = self._previous = (first_step, self._start)
        self._open_line = False
        self._told = 0.0

    def step(self, step: int, figures: Mapping[str, float], due: bool) -> None:
        """Shows a step's figures; `due`: whether its line is due."""
        now = time.monotonic()
        long_ago = now - self._previous[1] > _INTERVAL_S
        if not self._shown or not (due or (self._rewrites and long_ago)):
            return
        # Figures of several steps may arrive at once, such as before an evaluation: they keep the rate measured before.
        since = self._previous if long_ago else self._before
        steps, seconds = step - since[0], now - since[1]
        rate = steps / seconds if steps > 0 and seconds > 0 else 0.0
        overall = (now - self._start) / max(1, step - self._first)
        if long_ago:
            self._before, self._previous = self._previous, (step, now)
        listed = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        text = f"step {step}/{self._last}  {listed}  {rate:.2f} steps/s  {duration((self._last - step) * overall)} left"
        if due:
            self.say(text)
        else:
            self._rewrite(text)

    def part(self, what: str, done: int, total: int) -> None:
        """Shows on a terminal how far something is that takes long within a step, such as an evaluation."""
        now = time.monotonic()
        if self._shown and self._rewrites and (done == total or now - self._told > _INTERVAL_S):
            self._told = now
            self._rewrite(f"{what}: {done} of {total} batches")

    def _rewrite(self, text: str) -> None:
        print(f"\r\033[K{text}", end="", file=self._out, flush=True)
        self._open_line = True

    def say(self, text: str) -> None:
        """Prints a line that stays."""
        if not self._shown:
            return
        self._append(text)
        if self._is_quiet and not text.startswith(_NEEDS_ATTENTION):
            return
        print(f"\r\033[K{text}" if self._open_line else text, file=self._out, flush=True)
        self._open_line = False

    def _append(self, text: str) -> None:
        if self._log is None:
            return
        try:
            self._log.parent.mkdir(exist_ok=True)
            with self._log.open("a") as file:
                file.write(f"{text}\n")
        except OSError as error:
            path, self._log = self._log, None
            self.say(f"phalanx: {path}: {error.strerror}: lines of the output are no longer kept there")

    def clear(self) -> None:
        """Removes the line that is rewritten."""
        if self._open_line:
            print("\r\033[K", end="", file=self._out, flush=True)
            self._open_line = False
