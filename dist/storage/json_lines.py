"""JSONL files: appended in complete lines; broken lines are skipped on reading. No torch here.

A kill or a full disk can cut a line short; a crash of the machine leaves NULs, and people edit files. None of it ends a run.
"""

import errno
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from phalanx.configs.errors import UserError
from phalanx.dist.storage.durable_files import kind_of_no_file, open_file, parse_object, write_atomically

_NO_FILE = {errno.ELOOP: "a link, which is not followed", errno.EISDIR: "a folder", errno.ENXIO: "a socket"}
_LONGEST = 1 << 26  # bytes of a line, far more than ours have
_reported: set[Path] = set()  # files whose broken lines this process has reported


def read_lines(path: Path, **wanted: type) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file. Broken lines are skipped, and reported once; a missing file has no lines.

    Args:
        wanted: keys that a line must have, with their types; a `float` may be an integer, and is finite.

    Raises:
        OSError: if the file cannot be read.
        UserError: if it is a folder, a pipe or a device.
    """
    if not path.exists():
        return
    broken: list[int] = []
    try:
        opened = open_file(path)
    except ValueError as error:
        raise _in_its_place(path, str(error)) from None
    with opened as file:
        for number, line in enumerate(_lines(file), start=1):
            if not line.endswith(b"\n"):
                break  # it is being written, or its writer was killed
            values = _parsed(line, wanted)
            if values is None:
                broken.append(number)
            else:
                yield values
    if broken and path not in _reported:
        _reported.add(path)
        _report(path, broken)


def _in_its_place(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: {problem}. Move it away: the run writes a file of that name.")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines; of an endless one, such as a hole in a file, only the end is kept."""
    while line := file.readline(_LONGEST):
        while len(line) == _LONGEST and not line.endswith(b"\n"):
            _pass_hole(file)
            if not (line := file.readline(_LONGEST)):
                return
        yield line


def _pass_hole(file: BinaryIO) -> None:
    """Goes to where the file holds bytes again: a hole may be larger than any disk."""
    descriptor, place = file.fileno(), file.tell()
    before = os.lseek(descriptor, 0, os.SEEK_CUR)  # what the file's buffer takes for granted
    try:
        place = os.lseek(descriptor, place, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole follows
            place = os.fstat(descriptor).st_size
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)
    file.seek(place)


def _end_of_data(descriptor: int, size: int) -> int:
    """Where the last bytes end that a file holds; a hole may follow."""
    end = 0
    try:
        while end < size:
            end = os.lseek(descriptor, os.lseek(descriptor, end, os.SEEK_DATA), os.SEEK_HOLE)
    except OSError as error:
        return end if error.errno == errno.ENXIO else size  # no more data; or a file system that knows no holes
    return end


def _parsed(line: bytes, wanted: dict[str, type]) -> dict[str, Any] | None:
    try:
        values = parse_object(line)
    except ValueError:
        return None
    return values if all(_is(values.get(key), kind) for key, kind in wanted.items()) else None


def _is(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and _is_finite(value)
    return isinstance(value, kind)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def _report(path: Path, broken: list[int]) -> None:
    several = len(broken) > 1
    which = f"{len(broken)} lines (the first is line {broken[0]})" if several else f"line {broken[0]}"
    message = f"phalanx: {path}: {which} cannot be read and {'were' if several else 'was'} skipped"
    print(message, file=sys.stderr, flush=True)


class JsonLines:
    """A JSONL file that is appended to. A line is in it completely or not at all: while the disk is full lines wait in memory.

    Raises:
        OSError: if the file cannot be opened; a link is not followed.
    """

    def __init__(self, path: Path):
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno not in _NO_FILE:
                raise
            raise _in_its_place(path, f"this is {_NO_FILE[error.errno]}") from None
        self._waiting = b""
        try:
            if (kind := kind_of_no_file(self._file)) is not None:
                raise _in_its_place(path, f"this is {kind}")
            self._remove_partial_line()
        except BaseException:
            os.close(self._file)
            raise

    def _remove_partial_line(self) -> None:
        """Removes a last line that a kill cut short, so that the next one is not appended to it."""
        size = os.fstat(self._file).st_size
        end = _end_of_data(self._file, size) if size > _LONGEST else size
        while end:
            start = max(0, end - 65536)
            found = os.pread(self._file, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)

    def append(self, line: dict[str, Any]) -> OSError | None:
        """Writes a line; NaN and infinity, which JSON lacks, become "nan" and "inf".

        Returns:
            Why it could not be written yet, if so: the next `append` or `sync` tries again.
        """
        self._waiting += as_line(line)
        try:
            self._write()
        except OSError as error:
            return error
        return None

    def _write(self) -> None:
        """Writes the waiting lines, or takes back a partial write."""
        if not self._waiting:
            return
        before, written = os.fstat(self._file).st_size, 0
        try:
            while written < len(self._waiting):
                written += os.write(self._file, self._waiting[written:])  # may write less than given
        except OSError as error:
            os.ftruncate(self._file, before)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._waiting = b""

    def sync(self) -> None:
        """Returns when every line is on the disk.

        Raises:
            OSError: if one cannot be written yet.
        """
        self._write()
        try:
            os.fsync(self._file)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def abandon(self) -> None:
        """Closes the file, dropping waiting lines."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        """
        Raises:
            OSError: if a line cannot be written; the file is closed.
        """
        if self._file < 0:
            return
        try:
            self._write()
        finally:
            self.abandon()


def as_line(values: dict[str, Any]) -> bytes:
    """Encodes a line of a JSONL file."""
    return json.dumps(_plain(values), allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def number(value: Any) -> float | None:
    """The number that a line holds, "nan" and "inf" included; None if it is not a number."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    return float(value) if isinstance(value, float) or _is(value, float) else None


def join_last(path: Path, line: dict[str, Any]) -> None:
    """Adds values to the last line if it is of the same step, else appends a line. The file must not be open elsewhere."""
    lines = list(read_lines(path, step=int))
    if lines and lines[-1]["step"] == line["step"]:
        line = lines.pop() | line
    write_atomically(path, b"".join(map(as_line, [*lines, line])))


def cut_back(path: Path, last_step: int) -> None:
    """Drops the lines of steps after `last_step`, which will be repeated, and those that cannot be read."""
    if path.exists():
        lines = [as_line(line) for line in read_lines(path, step=int) if line["step"] <= last_step]
        write_atomically(path, b"".join(lines))
