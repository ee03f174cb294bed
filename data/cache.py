"""Decoded images in a folder that the ranks of a node share, such as one in /dev/shm or on a local disk.

A file an image, its name made of what the image was made of: path, size, time of the last change, channels. So an image that
changes has another name, and what lies there under an old one is never read. A file is written aside and renamed: it is there
whole, or not at all, whoever is killed, and whoever else writes the same. A folder that is full is read, and no longer written.
"""

import contextlib
import errno
import hashlib
import math
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from phalanx.configs.errors import UserError

_MAGIC = b"phalanx image 2\0"  # the number changes with what a file is read as
_HEADER = struct.Struct("<16sIIII")  # magic, bits a channel, channels, height, width
_TYPES = {8: torch.uint8, 16: torch.uint16}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Cache:
    """Decoded images of a folder.

    Raises:
        UserError: where the folder cannot be made or written.
    """

    def __init__(self, folder: str):
        self._folder, self._full = Path(folder), False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache={folder}: the folder cannot be made: {error.strerror}. Name another.") from None
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
            stat = os.stat(path)
        except OSError:
            return decode()  # it knows the words for a missing file
        made_of = repr((os.path.abspath(path), stat.st_size, stat.st_mtime_ns, variant))
        name = hashlib.blake2b(os.fsencode(made_of), digest_size=16).hexdigest()
        place = self._folder / name[:2] / name[2:]
        kept = _read(place)
        if kept is not None:
            return kept
        image = decode()
        if not self._full:
            self._write(place, image)
        return image

    def _write(self, place: Path, image: Tensor) -> None:
        bits = image.element_size() * 8
        aside = place.with_name(f".{place.name}.{os.uname().nodename}.{os.getpid()}")
        try:
            place.parent.mkdir(exist_ok=True)
            with open(aside, "wb") as file:
                file.write(_HEADER.pack(_MAGIC, bits, *image.shape))
                file.write(image.contiguous().numpy().data)
            os.rename(aside, place)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            self._full = True
            reason = "is full" if error.errno in _FULL else f"cannot be written ({error.strerror})"
            print(f"phalanx: data.cache={self._folder} {reason}; others are read as they are", file=sys.stderr, flush=True)


def _read(place: Path) -> Tensor | None:
    """An image of the cache; None where it is not there, or not whole."""
    try:
        with open(place, "rb") as file:
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
