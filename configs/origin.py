"""Where a value was written, and the error that names the place."""

from dataclasses import dataclass

_LONGEST = 300  # of a path in a message


@dataclass(frozen=True)
class Origin:
    """Where a value was written."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        file = self.file if len(self.file) <= _LONGEST else f"{self.file[:_LONGEST]}..."
        return file if self.line is None else f"{file}:{self.line}"


COMMAND_LINE = Origin("command line")


class Problem(Exception):
    """A source that cannot be read."""

    def __init__(self, origin: Origin, sentence: str):
        self.origin, self.sentence = origin, sentence
