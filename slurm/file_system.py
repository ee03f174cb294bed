"""On which file system a folder lies, and whether other machines can see it."""

import re
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
# In memory, or in a container's own layer: gone with the machine.
_PRIVATE = {"tmpfs", "ramfs", "overlay", "aufs", "devtmpfs"}
# Where administrators put a machine's own scratch space, whatever file system holds it.
_SCRATCH = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
# On a disk of this machine; yet the machine may be the one that gives its disk to the others.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "vfat", "squashfs"}


@dataclass(frozen=True)
class FileSystem:
    """Where a folder lies that may not be there yet.

    Attributes:
        path: without symbolic links.
        kind: type of the file system, such as nfs4, lustre or tmpfs; empty where the machine does not say.
    """

    path: Path
    kind: str

    @property
    def private(self) -> str | None:
        """Why no other machine can see it; None where others may."""
        if self.kind in _PRIVATE:
            return f"is on {self.kind}, which only this machine sees"
        # A network file system that is mounted on a scratch folder is shared all the same.
        if self.kind in _LOCAL | {""}:
            return next(
                (f"is under {s}, which every machine has for itself" for s in _SCRATCH if self.path.is_relative_to(s)), None
            )
        return None

    @property
    def doubtful(self) -> bool:
        """Whether it lies on a disk of this machine, which the others see only if they mount it."""
        return self.kind in _LOCAL


def place(folder: Path, mounts: str | None = None) -> FileSystem:
    """The place of a folder.

    Args:
        mounts: content of /proc/self/mountinfo; read where not given.
    """
    path = folder.resolve()
    if mounts is None:
        mounts = _MOUNTS.read_text(errors="replace") if _MOUNTS.exists() else ""
    kind, longest = "", -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4]))
        # Of several on the same point, the last one covers the others.
        if path.is_relative_to(point) and len(point.parts) >= longest:
            kind, longest = after.split(" ")[0], len(point.parts)
    return FileSystem(path, kind)
