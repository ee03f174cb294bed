"""The cache of decoded images: a folder shared by a node's ranks, such as one in /dev/shm or on a local disk.

One file per image, its name derived from path, size, time of the last change, and channels. So a changed image has another
name, and the file under its old name is never read. A file is written aside and renamed: it is complete or absent, even after
a kill and with several writers. A full folder is read, but no longer written.

Folders like /dev/shm are open to all users: other users' folders and files, and links, are neither read nor written.
"""

import contextlib
import errno
import hashlib
import math
import os
import pwd
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.dist.storage.durable_files import create_aside

_MAGIC = b"phalanx image 2\0"  # the number changes with the decoding
_HEADER = struct.Struct("<16sIIII")  # magic, bits per channel, channels, height, width
_TYPES = {8: torch.uint8, 16: torch.uint16, 32: torch.float32}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Cache:
    """Decoded images in a folder; if all users may make folders there, in a private subfolder.

    Raises:
        UserError: if the folder cannot be made or written, or others could put images there.
    """

    def __init__(self, folder: str):
        self._folder, self._full = Path(folder), False
        self._ours: dict[str, bool] = {}
        if _is_shared_place(self._folder):
            self._folder = self._folder / f"phalanx-{os.geteuid()}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache={folder}: the folder cannot be made: {error.strerror}. Name another.") from None
        _refuse_open_to_others(self._folder)
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise UserError(f"data.cache={folder}: the folder cannot be written. Name another.")

    def get(self, path: str, variant: str, decode: Callable[[], Tensor]) -> Tensor:
        """The result of `decode`, from the cache if present, else written to it.

        Args:
            path: the image file.
            variant: what else the result depends on.

        Shape: [C, H, W], uint8, uint16 or float32.
        """
        try:
            found = os.stat(path)
        except OSError:
            return decode()  # it reports a missing file
        made_of = repr((os.path.abspath(path), found.st_size, found.st_mtime_ns, variant))
        name = hashlib.blake2b(os.fsencode(made_of), digest_size=16).hexdigest()
        place = self._folder / name[:2] / name[2:]
        if not self._is_ours(place.parent):
            return decode()
        kept = _read(place)
        if kept is not None:
            return kept
        image = decode()
        if not self._full:
            self._write(place, image)
        return image

    def _is_ours(self, folder: Path) -> bool:
        """Whether a folder of the cache, made if needed, is this user's and not a link."""
        if folder.name not in self._ours:
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                self._ours[folder.name] = _is_own(os.lstat(folder), stat.S_ISDIR)
            except OSError as error:
                self._say_unwritable(error)
                return False
        return self._ours[folder.name]

    def _write(self, place: Path, image: Tensor) -> None:
        bits = image.element_size() * 8
        aside = None
        try:
            descriptor, aside = create_aside(place)
            with open(descriptor, "wb") as file:
                file.write(_HEADER.pack(_MAGIC, bits, *image.shape))
                file.write(image.contiguous().numpy().data)
            os.rename(aside, place)
        except OSError as error:
            with contextlib.suppress(OSError):
                if aside is not None:
                    aside.unlink(missing_ok=True)
            self._say_unwritable(error)

    def _say_unwritable(self, error: OSError) -> None:
        if not self._full:
            reason = "is full" if error.errno in _FULL else f"cannot be written ({error.strerror})"
            print(f"phalanx: data.cache={self._folder} {reason}; further images are not cached", file=sys.stderr, flush=True)
        self._full = True


def _is_shared_place(folder: Path) -> bool:
    """Whether all users may make folders there but not change each other's, as in /dev/shm and /tmp."""
    with contextlib.suppress(OSError):
        mode = folder.stat().st_mode
        return bool(mode & stat.S_ISVTX and mode & stat.S_IWOTH)
    return False


def _refuse_open_to_others(folder: Path) -> None:
    """Refuses a folder in which another user could replace images.

    Raises:
        UserError: with its owner.
    """
    link, real = os.lstat(folder), os.stat(folder)
    for found, what in ((link, "the link" if stat.S_ISLNK(link.st_mode) else "the folder"), (real, "the folder")):
        if found.st_uid != os.geteuid():
            raise UserError(
                f"data.cache={folder}: {what} belongs to {_user(found.st_uid)}, who could put other images there. "
                "Name your own folder; it is made if it does not exist."
            )
    if real.st_mode & stat.S_IWOTH and not real.st_mode & stat.S_ISVTX:
        raise UserError(
            f"data.cache={folder}: every user may write there (mode {stat.S_IMODE(real.st_mode):04o}), and could put other "
            f"images there. Run chmod o-w {folder}, or name another folder."
        )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"the user {number}"


def _is_own(found: os.stat_result, kind: Callable[[int], bool]) -> bool:
    return kind(found.st_mode) and found.st_uid == os.geteuid()


def _read(place: Path) -> Tensor | None:
    """An image of the cache; None if it is absent or incomplete."""
    try:
        with open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not _is_own(os.fstat(file.fileno()), stat.S_ISREG):
                return None
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return None
            magic, bits, *shape = _HEADER.unpack(header)
            size = math.prod(shape) * bits // 8
            if magic != _MAGIC or bits not in _TYPES or os.fstat(file.fileno()).st_size != _HEADER.size + size:
                return None
            image = torch.empty(shape, dtype=_TYPES[bits])
            complete = file.readinto(image.numpy().data.cast("B")) == size
            return image if complete else None
    except OSError:
        return None
