"""How ranks tell the command that started them who they are and how they ended; launchers turn every code into 1. No torch."""

import os
from pathlib import Path

from phalanx.dist.files import write_atomically

VARIABLE = "PHALANX_MAILBOX"


def _folder() -> Path | None:
    name = os.environ.get(VARIABLE)
    return Path(name) if name else None


def arrived(rank: int) -> None:
    """This rank is here and answers signals."""
    if (folder := _folder()) is not None:
        write_atomically(folder / f"rank-{rank}.pid", str(os.getpid()))


def ended(rank: int, code: int) -> None:
    """This rank ends with an exit code."""
    if (folder := _folder()) is not None:
        write_atomically(folder / f"rank-{rank}.exit", str(int(code)))


def process_ids(folder: Path) -> dict[int, int]:
    """Process ids of the ranks that have arrived."""
    return {int(p.stem.removeprefix("rank-")): int(p.read_text()) for p in folder.glob("rank-*.pid")}


def exit_codes(folder: Path) -> dict[int, int]:
    """Exit codes of the ranks that have ended, the earliest first."""
    files = sorted(folder.glob("rank-*.exit"), key=lambda p: p.stat().st_mtime_ns)
    return {int(p.stem.removeprefix("rank-")): int(p.read_text()) for p in files}
