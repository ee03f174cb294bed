"""Decoded images in a folder that the ranks of a node share, such as one in /dev/shm or on a local disk.

A file an image, its name made of what the image was made of: path, size, time of the last change, channels. So an image that
changes has another name, and what lies there under an old one is never read. A file is written aside and renamed: it is there
whole, or not at all, whoever is killed, and whoever else writes the same. A folder that is full is read, and no longer written.

Places like /dev/shm are everybody's: folders and files of other users, and links, are neither read nor written.
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

_MAGIC = b"phalanx image 2\0"  # the number changes with what a file is read as
_HEADER = struct.Struct("<16sIIII")  # magic, bits a channel, channels, height, width
_TYPES = {8: torch.uint8, 16: torch.uint16}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Cache:
    """Decoded images of a folder; in a place where all users may make folders, of one of our own inside.

    Raises:
        UserError: where the folder cannot be made or written, or others could put images there.
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
        """The image as `decode` gives it, from the cache where it is there, else written to it.

        Args:
            path: of the image file.
            variant: what else the result depends on.

        Shape: [C, H, W], uint8 or uint16.
        """
        try:
            found = os.stat(path)
        except OSError:
            return decode()  # it knows the words for a missing file
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
        """Whether a folder of the cache, which is made if need be, is no link and nobody else's."""
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
            print(f"phalanx: data.cache={self._folder} {reason}; others are read as they are", file=sys.stderr, flush=True)
        self._full = True


def _is_shared_place(folder: Path) -> bool:
    """Whether all users may make folders there and none may touch another's, as in /dev/shm and /tmp."""
    with contextlib.suppress(OSError):
        mode = folder.stat().st_mode
        return bool(mode & stat.S_ISVTX and mode & stat.S_IWOTH)
    return False


def _refuse_open_to_others(folder: Path) -> None:
    """Refuses a folder in which another user could put images in place of ours.

    Raises:
        UserError: saying whose it is.
    """
    link, real = os.lstat(folder), os.stat(folder)
    for found, what in ((link, "the link" if stat.S_ISLNK(link.st_mode) else "the folder"), (real, "the folder")):
        if found.st_uid != os.geteuid():
            raise UserError(
                f"data.cache={folder}: {what} belongs to {_user(found.st_uid)}, who could put other images there. "
                "Name a folder of your own; it is made if it is not there."
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
    """An image of the cache; None where it is not there, or not whole."""
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
            whole = file.readinto(image.numpy().data.cast("B")) == size
            return image if whole else None
    except OSError:
        return None
