"""The file system of a folder, and whether other machines can see it."""

import re
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
# In memory, or in a container's own layer: lost with the machine.
_PRIVATE = {"tmpfs", "ramfs", "overlay", "aufs", "devtmpfs"}
# Usual folders of a machine's local scratch space, on any file system.
_SCRATCH = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
# On a disk of this machine, which may however be exported to the others.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "vfat", "squashfs"}


@dataclass(frozen=True)
class FileSystem:
    """The file system of a folder that may not exist yet.

    Attributes:
        path: without symbolic links.
        kind: type of the file system, such as nfs4, lustre or tmpfs; empty if unknown.
    """

    path: Path
    kind: str

    @property
    def private(self) -> str | None:
        """Why no other machine can see it; None if others may."""
        if self.kind in _PRIVATE:
            return f"is on {self.kind}, which only this machine sees"
        # A network file system mounted on a scratch folder is shared nevertheless.
        if self.kind in _LOCAL | {""}:
            return next(
                (f"is under {s}, which is local to each machine" for s in _SCRATCH if self.path.is_relative_to(s)), None
            )
        return None

    @property
    def doubtful(self) -> bool:
        """Whether it is on a disk of this machine, which others see only if they mount it."""
        return self.kind in _LOCAL


def place(folder: Path, mounts: str | None = None) -> FileSystem:
    """The file system of a folder.

    Args:
        mounts: content of /proc/self/mountinfo; read by default.
    """
    path = folder.resolve()
    if mounts is None:
        mounts = _MOUNTS.read_text(errors="replace") if _MOUNTS.exists() else ""
    kind, longest = "", -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4]))
        # Of several on the same point, the last one hides the others.
        if path.is_relative_to(point) and len(point.parts) >= longest:
            kind, longest = after.split(" ")[0], len(point.parts)
    return FileSystem(path, kind)
