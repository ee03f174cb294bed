"""Files that survive a kill at any instruction, and a full disk: written aside, fsynced, renamed. No torch here."""

import ctypes
import errno
import json
import os
import re
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

_ASIDE = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
LARGEST = 1 << 30
"""Bytes of a file that is read at once, far beyond what ours have."""

_FORGOTTEN_S = 3600.0  # nobody writes a file for so long: a kill left it


def fsync_directory(directory: Path) -> None:
    """Makes the names in a directory durable: an fsync of a file does not save its name."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h: start writing dirty pages out, wait for nothing
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux alone has it
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def start_writeback(descriptor: int, offset: int, count: int) -> None:
    """Asks the kernel to begin with bytes that were written, so that the disk works while the next ones are made.

    Only a hint: where it is not there or fails nothing is lost, for the fsync at the end does it all, and tells of errors.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, offset, count, _SYNC_FILE_RANGE_WRITE)


def create_aside(path: Path, mode: int = 0o666) -> tuple[int, Path]:
    """A new file beside `path`, open for writing, under a name that nobody can foresee: no link is followed, nothing replaced.

    Args:
        mode: permissions, less those that the umask takes away.

    Raises:
        OSError: where none can be made.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    return os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode), aside


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """The file holds the old content or the new one, never a part of either.

    Args:
        mode: permissions, less those that the umask takes away.

    Raises:
        OSError: where it cannot be written; the old content stays.
    """
    descriptor, aside = create_aside(path, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def remove_forgotten(directory: Path) -> None:
    """Removes what a kill in mid-write left in a directory, long ago, under a temporary name of ours."""
    with suppress(OSError):  # it costs a little room, no more
        for entry in os.scandir(directory):
            is_ours = _ASIDE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if is_ours and time.time() - entry.stat(follow_symlinks=False).st_mtime > _FORGOTTEN_S:
                os.unlink(entry.path)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def kind_of_no_file(descriptor: int) -> str | None:
    """What an open file is, if it is none that one reads to its end and writes at once; in words."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return None
    return "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"


def open_file(path: Path) -> BinaryIO:
    """Opens a file of ours for reading. A pipe would keep its reader waiting, and a device has no end.

    Raises:
        OSError: where it cannot be read.
        ValueError: where it is no file, saying what it is.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise ValueError("this is a socket") from None
    kind = kind_of_no_file(descriptor)
    if kind is not None:
        os.close(descriptor)
        raise ValueError(f"this is {kind}")
    return open(descriptor, "rb")


def read_bytes(path: Path) -> bytes:
    """What a file of ours holds.

    Raises:
        OSError: where it cannot be read.
        ValueError: where it is no file, or larger than any that somebody of ours has written.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise ValueError("this is too large")
        return file.read(LARGEST)


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: where the file cannot be read.
        ValueError: where it holds anything else.
    """
    return parse_object(read_bytes(path))


def parse_object(content: bytes) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises:
        ValueError: where it holds anything else.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value
