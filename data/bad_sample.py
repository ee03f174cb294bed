"""Errors of single samples: each names its file, what is wrong with it, and what to do. No torch here."""

from phalanx.configs.errors import UserError, one_line


class BadSample(UserError):
    """A sample that cannot be used.

    Attributes:
        file: the sample's file.
        problem: what is wrong, without the file's name.
        remedy: what to change.
        others: a sentence on how many samples are affected, with `{count}` and `{total}`.
    """

    def __init__(self, message: str, file: str = "", problem: str = "", remedy: str = "", others: str = ""):
        super().__init__(message)
        self.file, self.problem, self.remedy, self.others = file, problem, remedy, others


class Unreadable(BadSample):
    """A sample whose file is missing or not a complete image: `data.on_error=skip` skips it."""


def unreadable(
    file: str, problem: str, remedy: str = "Replace it; data.on_error=skip skips such files in training."
) -> Unreadable:
    file = one_line(file)
    return Unreadable(f"{file}: {problem}. {remedy}", file, problem, remedy, "{count} of {total} samples cannot be read")


def bad(file: str, problem: str, remedy: str, others: str) -> BadSample:
    file = one_line(file)
    return BadSample(f"{file}: {problem}. {remedy}", file, problem, remedy, others)
