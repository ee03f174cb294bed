"""How Phalanx ends: the exit codes, and the error that means "bad input" rather than "a bug"."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a process of Phalanx returns. Launchers turn any of them into 1; `phalanx train` maps them back."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    STOPPED_EARLY = 75  # EX_TEMPFAIL of sysexits.h: a checkpoint is there, so requeueing is worth it


class UserError(ValueError):
    """Something that the user gave is wrong. The message says what, where and what to change; no traceback is shown.

    Attributes:
        shared: whether every rank raises the same, so that one of them may speak for all.
    """

    def __init__(self, message: str, shared: bool = False):
        super().__init__(message)
        self.shared = shared


class TrainingFailed(RuntimeError):
    """Training cannot go on for a reason that is no bug (a loss that is not finite, a disk that is full).

    Attributes:
        shared: whether every rank raises the same, so that one of them may speak for all.
    """

    shared = True


class RanksApart(TrainingFailed):
    """Ranks cannot reach each other: the network's fault, or a node's, and worth another try on other nodes."""

    shared = False
