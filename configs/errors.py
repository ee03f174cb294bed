"""The exit codes, and the errors for bad input as opposed to bugs."""

import re
from enum import IntEnum

_LONGEST_LINE, _HEAD, _TAIL = 1_500, 900, 400  # characters: messages repeat the input, which may be long

# Characters that move a terminal's cursor, reverse the text, or cannot be written: shown as escapes.
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class ExitCode(IntEnum):
    """The exit codes. Launchers turn any of them into 1; `phalanx train` maps them back."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    STOPPED_EARLY = 75  # EX_TEMPFAIL of sysexits.h: there is a checkpoint, so a requeue makes sense


def printable(message: str) -> str:
    """A message that is safe to print with any content: control characters as escapes, endless lines shortened."""
    safe = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), message)
    lines = (f"{line[:_HEAD]} ... {line[-_TAIL:]}" if len(line) > _LONGEST_LINE else line for line in safe.split("\n"))
    return "\n".join(lines)


def one_line(name: str) -> str:
    """A file's name as a sentence shows it: its line breaks, which `printable` leaves between sentences, as escapes."""
    return name.replace("\r", "\\r").replace("\n", "\\n")


class Stopped(Exception):
    """This rank was asked to stop while it waited for others to start; there is nothing to lose yet."""


class UserError(ValueError):
    """An error in the user's input. The message names what, where and what to change; no traceback is shown.

    Attributes:
        shared: whether every rank raises the same, so that one of them may report it for all.
    """

    def __init__(self, message: str, shared: bool = False):
        super().__init__(printable(message))
        self.shared = shared


class RunTaken(UserError):
    """Another trainer has the run directory: nothing is written to it."""


class NeverBegun(UserError):
    """A new run was refused before its first step: it leaves no run directory."""


class TrainingFailed(RuntimeError):
    """Training cannot continue for a reason that is not a bug (a loss that is not finite, a full disk).

    Attributes:
        shared: whether every rank raises the same, so that one of them may report it for all.
    """

    shared = True


class RunLost(TrainingFailed):
    """The run directory is another trainer's, or is gone: nothing is written to it."""


class RanksApart(TrainingFailed):
    """Ranks cannot reach each other: the fault of the network or of a node, which may not recur on other nodes."""

    shared = False
