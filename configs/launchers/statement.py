"""What another program's settings say about a key of ours."""

from dataclasses import dataclass, field
from typing import Any

from phalanx.configs.origin import Origin


@dataclass(frozen=True)
class Statement:
    """One setting of another program, in the words of both.

    Attributes:
        origin: the file it stands in.
        written: as it stands there: `zero_optimization.stage=3`.
        key, value: what it means here: `dist.strategy`, `zero3`.
        implied: nobody wrote it, it is the other program's default: it fills a key, and contradicts nothing.
    """

    origin: Origin
    written: str
    key: str
    value: Any
    implied: bool = False


@dataclass
class Statements:
    """All that a source says, and what in it cannot be said here."""

    said: list[Statement] = field(default_factory=list)
    refused: list[tuple[Origin, str]] = field(default_factory=list)

    def say(self, origin: Origin, written: str, key: str, value: Any, implied: bool = False) -> None:
        self.said.append(Statement(origin, written, key, value, implied))

    def refuse(self, origin: Origin, sentence: str) -> None:
        self.refused.append((origin, sentence))

    def value(self, key: str) -> Any:
        """What is said of a key; None where nothing is."""
        return next((statement.value for statement in self.said if statement.key == key), None)


def shown(value: Any) -> str:
    """A value as a recipe would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)
