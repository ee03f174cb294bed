"""The disk of the run directories: what checkpoints rely on (links, renames, fsync), its speed, its room, its clock."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from phalanx.launch.doctor_checks.diagnosis import Diagnosis
from phalanx.slurm.file_system import place

_MB, _SLOW_MB_S, _ROOM_GB = 64, 50.0, 5.0
_SKEW_S = 5.0


def disk(folder: Path, on_slurm: bool) -> Iterator[Diagnosis]:
    """
    Args:
        folder: of the run directories; it need not exist yet.
        on_slurm: whether other machines have to see it.
    """
    there = folder.resolve()
    while not there.is_dir():
        there = there.parent
    check = f"disk of {folder}"
    try:
        with tempfile.TemporaryDirectory(prefix=".phalanx-doctor-", dir=there) as name:
            yield from _tried(check, Path(name))
    except OSError as error:
        yield Diagnosis(
            check, "red", f"{there}: {error.strerror}", "Choose a folder for runs that you may write to: runs=FOLDER."
        )
        return
    free = shutil.disk_usage(there).free / 2**30
    if free < _ROOM_GB:
        yield Diagnosis("room", "yellow", f"{free:.1f} GiB free", "Make room: a checkpoint has weights and optimizer state.")
    else:
        yield Diagnosis("room", "green", f"{free:.0f} GiB free")
    where = place(there)
    if on_slurm and where.private is not None:
        yield Diagnosis("shared disk", "red", f"{folder} {where.private}", "Set runs to a folder that all nodes see.")
    elif on_slurm and where.doubtful:
        said = f"{folder} is on {where.kind}, a disk of this machine"
        yield Diagnosis(
            "shared disk", "yellow", said, "Make sure that all nodes mount it, or set runs to a folder that they do."
        )


def _tried(check: str, folder: Path) -> Iterator[Diagnosis]:
    content = os.urandom(1 << 20)
    begun = time.monotonic()
    with open(folder / "aside", "wb") as file:
        for _ in range(_MB):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    speed = _MB / (time.monotonic() - begun)
    said = f"{speed:.0f} MB/s with fsync"
    if speed < _SLOW_MB_S:
        yield Diagnosis(check, "yellow", said, "Saves take long; they go on beside training. A faster disk: runs=FOLDER.")
    else:
        yield Diagnosis(check, "green", said)
    skew = (folder / "aside").stat().st_mtime - time.time()
    if abs(skew) > _SKEW_S:
        said = f"the file system's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
        yield Diagnosis("clock", "yellow", said, "Have both set by NTP: signs of life of a run are compared by time.")
    (folder / "old").write_bytes(b"old")
    os.replace(folder / "aside", folder / "old")
    try:
        os.link(folder / "old", folder / "linked")
    except OSError as error:
        remedy = "Choose another file system for runs: two trainers could write the same run."
        yield Diagnosis("hard links", "red", f"they are not supported: {error.strerror}", remedy)
