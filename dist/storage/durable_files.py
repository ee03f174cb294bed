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
"""Bytes of a file that is read at once, far more than ours have."""

_FORGOTTEN_S = 3600.0  # no write takes so long: a kill left the file


def fsync_directory(directory: Path) -> None:
    """Makes the names in a directory durable: an fsync of a file does not save its name."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h: starts writing dirty pages without waiting
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux only
if _sync_file_range is not None:
    _sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def start_writeback(descriptor: int, offset: int, count: int) -> None:
    """Asks the kernel to start writing bytes to the disk while the next ones are prepared.

    Only a hint: if it is missing or fails nothing is lost, since the fsync at the end writes all and reports errors.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, offset, count, _SYNC_FILE_RANGE_WRITE)


def create_aside(path: Path, mode: int = 0o666) -> tuple[int, Path]:
    """A new file beside `path`, open for writing, under an unpredictable name: no link is followed, nothing replaced.

    Args:
        mode: permissions, before the umask.

    Raises:
        OSError: if none can be made.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    return os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode), aside


def write_atomically(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """The file holds the old content or the new one, never a part of either.

    Args:
        mode: permissions, before the umask.

    Raises:
        OSError: if it cannot be written; the old content stays.
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
    """Removes old temporary files of ours that a kill left in a directory."""
    with suppress(OSError):  # it only costs a little disk space
        for entry in os.scandir(directory):
            is_ours = _ASIDE.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            if is_ours and time.time() - entry.stat(follow_symlinks=False).st_mtime > _FORGOTTEN_S:
                os.unlink(entry.path)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def kind_of_no_file(descriptor: int) -> str | None:
    """The kind of an open file in words, if it is not a regular file; else None."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return None
    return "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"


def open_file(path: Path) -> BinaryIO:
    """Opens a file of ours for reading. A pipe would block its reader, and a device may have no end.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not a regular file, with its kind.
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
    """The content of a file of ours.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not a regular file, or larger than any file of ours.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > LARGEST:
            raise ValueError("this is too large")
        return file.read()  # with a bound, the memory of the bound would be allocated


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it holds anything else.
    """
    return parse_object(read_bytes(path))


def parse_object(content: bytes) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises:
        ValueError: if it holds anything else.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
