"""How ranks report their process ids and exit codes to the command that started them: launchers return only 1. No torch."""

import os
from pathlib import Path

from phalanx.configs.errors import ExitCode
from phalanx.dist.processes.children import born
from phalanx.dist.storage.durable_files import write_atomically

VARIABLE = "PHALANX_MAILBOX"
_TOLD = "told"


def _folder() -> Path | None:
    name = os.environ.get(VARIABLE)
    return Path(name) if name else None


def is_open() -> bool:
    """Whether a command started this rank, and reads its status here."""
    return _folder() is not None


def has_failed_before(rank: int) -> bool:
    """Whether another rank has failed, and reported the reason."""
    folder = _folder()
    ended_well = (ExitCode.DONE, ExitCode.STOPPED_EARLY)
    return folder is not None and any(o != rank and code not in ended_well for o, code in exit_codes(folder).items())


def arrived(rank: int) -> None:
    """Reports that this rank has started and handles signals."""
    if (folder := _folder()) is not None:
        write_atomically(folder / f"rank-{rank}.pid", f"{os.getpid()} {born(os.getpid())}")


def ended(rank: int, code: int) -> None:
    """Reports this rank's exit code."""
    if (folder := _folder()) is not None:
        write_atomically(folder / f"rank-{rank}.exit", str(int(code)))


def interrupt_answered(folder: Path) -> None:
    """Records that the command that started the ranks has answered an interrupt itself."""
    (folder / _TOLD).touch()


def was_interrupt_answered() -> bool:
    """Whether the command that started this rank has answered an interrupt already."""
    return (folder := _folder()) is not None and (folder / _TOLD).exists()


def process_ids(folder: Path) -> dict[int, int]:
    """Process ids of the ranks that have arrived; the id of an ended one may be another process's by now."""
    return {rank: process for rank, (process, _) in _arrived(folder).items()}


def still_there(folder: Path) -> dict[int, int]:
    """Process ids of the ranks that have arrived and not ended."""
    return {rank: process for rank, (process, started) in _arrived(folder).items() if born(process) == started}


def _arrived(folder: Path) -> dict[int, tuple[int, int]]:
    """Process ids of the ranks that have arrived, and when the kernel started them; by rank."""
    words = {int(p.stem.removeprefix("rank-")): p.read_text().split() for p in folder.glob("rank-*.pid")}
    return {rank: (int(process), int(started)) for rank, (process, started) in sorted(words.items())}


def exit_codes(folder: Path) -> dict[int, int]:
    """Exit codes of the ranks that have ended, the earliest first."""
    files = sorted(folder.glob("rank-*.exit"), key=lambda p: p.stat().st_mtime_ns)
    return {int(p.stem.removeprefix("rank-")): int(p.read_text()) for p in files}
