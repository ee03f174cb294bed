"""What long measurements share: resuming where they were stopped, a line of progress, and words on how a page was made."""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from phalanx.dist.storage.json_lines import JsonLines, read_lines
from phalanx.train.tracking.progress import duration

ROOT = Path(__file__).resolve().parent.parent
Cell = TypeVar("Cell")


class Progress:
    """Done, of how many, rate and remaining time, on one line of a terminal; silent elsewhere."""

    def __init__(self, total: int, unit: str):
        self._total, self._unit, self._start = total, unit, time.monotonic()

    def tell(self, done: int, how: str = "") -> None:
        """`done` since the start of the command, and how it goes."""
        if not sys.stderr.isatty():
            return
        seconds = time.monotonic() - self._start
        left = duration((self._total - done) * seconds / max(done, 1))
        text = f"{done} of {self._total} {self._unit}  {done / seconds:.2f} a second  {left} left  {how}"
        print(f"\r\033[K{text}", end="\n" if done >= self._total else "", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the line away, so that others can be written."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def measure_all(
    results: Path,
    every: Sequence[Cell],
    measure: Callable[[Cell], dict[str, Any]],
    unit: str,
    to_line: Callable[[Cell], Any] = lambda cell: cell,
    from_line: Callable[[Any], Cell] = lambda told: told,
) -> dict[Cell, dict[str, Any]]:
    """Measures every cell that has no line in a file of results yet, adds its line there, and prints it.

    Args:
        results: a JSON line `{UNIT: CELL, "found": FIGURES, "commit": COMMIT}` for each cell.
        unit: what a cell is called; the word for several has an `s`.
        to_line, from_line: a cell as JSON, and back.

    Returns:
        The figures of all cells in the file, those of `every` and others.
    """
    found = {from_line(line[unit]): line["found"] for line in read_lines(results)}
    todo = [cell for cell in every if cell not in found]
    progress, file = Progress(len(todo), f"{unit}s"), JsonLines(results)
    try:
        for number, cell in enumerate(todo, 1):
            found[cell] = measure(cell)
            line = {unit: to_line(cell), "found": found[cell], "commit": commit()}
            file.append(line)
            progress.clear()
            print(json.dumps(line), flush=True)
            progress.tell(number)
    finally:
        file.close()
    return found


def made_by(command: str, *packages: str) -> str:
    """A sentence with date, commit, machine and the versions of torch, of other packages, and of Python."""
    from importlib.metadata import version

    listed = ", ".join(f"{name} {version(name)}" for name in ("torch", *packages))
    return (
        f"Made by `{command}` on {datetime.date.today()}, commit {commit()}, {os.cpu_count()} CPU cores, gloo: "
        f"{listed}, Python {platform.python_version()}."
    )


def commit() -> str:
    """The commit, with `+` if files were changed; other than results and pages, which a measurement writes itself."""
    changed = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"]
    commands = (["git", "rev-parse", "--short", "HEAD"], changed)
    head, changes = (subprocess.run(c, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() for c in commands)
    return head + ("+" if changes else "")


def put_section(page: Path, title: str, lines: Sequence[str]) -> None:
    """Writes the section `## TITLE` of a Markdown page, in place of one of that title; the others stay as they are."""
    before, *sections = page.read_text().split("\n## ") if page.exists() else ["# Checkpoints: the proof\n"]
    own = "\n".join([title, "", *lines]) + "\n"
    places = [number for number, section in enumerate(sections) if section.partition("\n")[0] == title]
    if places:
        sections[places[0]] = own
    else:
        sections.append(own)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n## ".join(part.rstrip("\n") + "\n" for part in (before, *sections)))
