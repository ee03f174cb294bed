"""Files that survive a kill at any instruction: written aside, fsynced, renamed. No torch here."""

import ctypes
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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


def write_atomically(path: Path, content: str | bytes) -> None:
    """The file holds the old content or the new one, never a part of either."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSONL file; a last line that a kill cut short is passed over."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)


class JsonLines:
    """A JSONL file that is appended to, a whole line a write."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._end_whole()
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)

    def _end_whole(self) -> None:
        """Takes away a last line that a kill cut short, so that the next one does not join it."""
        if not self.path.exists():
            return
        with open(self.path, "rb+") as file:
            content = file.read()
            if not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)

    def append(self, line: dict[str, Any]) -> None:
        """Writes a line; JSON has no word for NaN and infinity, which become "nan" and "inf"."""
        self._file.write(_as_line(line))

    def sync(self) -> None:
        """Returns when every line is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _as_line(values: dict[str, Any]) -> bytes:
    plain = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(plain, allow_nan=False).encode() + b"\n"


def join_last(path: Path, line: dict[str, Any]) -> None:
    """Adds values to the last line, where that is of the same step; else it is a line of its own. Nobody has the file open."""
    lines = list(read_lines(path))
    if lines and lines[-1]["step"] == line["step"]:
        line = lines.pop() | line
    write_atomically(path, b"".join(map(_as_line, [*lines, line])))


def cut_back(path: Path, last_step: int) -> None:
    """Drops the lines of steps after `last_step`: they will come again."""
    if not path.exists():
        return
    lines = [json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= last_step]
    write_atomically(path, "".join(lines))
