"""The checks' findings."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Findings:
    """Problems that prevent a job, and warnings; a sentence or two each."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def near(name: str, names: Iterable[str]) -> str:
    """Did you mean ...?"""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def listed(names: Iterable[str], most: int = 12) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def as_time(seconds: int) -> str:
    """A time in SLURM's form: 1-12:30:00."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def megabytes(memory: int) -> str:
    return f"{memory // 2**20}M"
