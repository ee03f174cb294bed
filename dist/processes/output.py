"""Standard output and error that never end training: a closed pipe or terminal, a full disk. No torch here.

`| head` may exit, a shell may be lost with its terminal, the log's disk may fill up. What is printed then is lost; training
is not, and neither is the exit code, which Python would replace by 120.
"""

import errno
import io
import os
import sys
from typing import Any, TextIO

_COMES_BACK = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)  # a disk may get free space again; a reader never returns

QUIET = "PHALANX_QUIET"
"""Set by --quiet: only what needs attention is printed."""


class _Steady(io.FileIO):
    """A descriptor whose writes never fail. What cannot be written is dropped, and the first reason is kept."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "wb", closefd=False)
        self.lost: OSError | None = None

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        written = 0
        try:
            while written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.lost = self.lost or error
            if error.errno not in _COMES_BACK:
                self._forsake()
        return len(view)

    def _forsake(self) -> None:
        """Redirects the descriptor, so that later loader processes and C libraries get no error either."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def keep_steady() -> None:
    """Makes this process's standard output and error steady, and fills them where they were closed.

    The next opened file would get a closed one's number, and receive everything printed.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    sys.stdout, sys.stderr = _steady(sys.stdout, 1), _steady(sys.stderr, 2)


def lost() -> OSError | None:
    """Why part of the standard output could not be written, if so."""
    raw = _raw(sys.stdout)
    if not isinstance(raw, _Steady):
        return None
    sys.stdout.flush()
    return raw.lost


def reports_lost_output() -> bool:
    """Whether printed output was lost, which is then reported. A closed pipe is not reported."""
    problem = lost()
    if problem is None or problem.errno == errno.EPIPE:
        return False
    print(f"phalanx: the output could not be written: {problem.strerror}", file=sys.stderr, flush=True)
    return True


def _steady(stream: TextIO | None, number: int) -> TextIO:
    """A stream to the same descriptor; another stream (a test's, a notebook's) stays as it is."""
    if stream is None:
        # It was closed when Python started.
        return io.TextIOWrapper(io.BufferedWriter(_Steady(number)), encoding="utf-8", errors="backslashreplace")
    if not isinstance(stream, io.TextIOWrapper) or _number(stream) != number or isinstance(_raw(stream), _Steady):
        return stream
    raw = _Steady(number)
    try:
        stream.flush()
    except OSError as error:
        raw.lost = error
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",  # a name outside the terminal's encoding must not end training either
        line_buffering=stream.line_buffering or number == 2,
    )


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _raw(stream: TextIO) -> Any:
    return getattr(getattr(stream, "buffer", None), "raw", None)
