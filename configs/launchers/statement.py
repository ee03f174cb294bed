"""Settings of other programs for keys of Phalanx."""

from dataclasses import dataclass, field
from typing import Any

from phalanx.configs.origin import Origin


@dataclass(frozen=True)
class Statement:
    """One setting of another program, and its meaning in Phalanx.

    Attributes:
        origin: its file.
        written: as in that file: `zero_optimization.stage=3`.
        key, value: its meaning here: `dist.strategy`, `zero3`.
        implied: it is the other program's default: it fills a key, and contradicts nothing.
    """

    origin: Origin
    written: str
    key: str
    value: Any
    implied: bool = False


@dataclass
class Statements:
    """All statements of a source, and its settings that recipes do not have."""

    said: list[Statement] = field(default_factory=list)
    refused: list[tuple[Origin, str]] = field(default_factory=list)

    def say(self, origin: Origin, written: str, key: str, value: Any, implied: bool = False) -> None:
        self.said.append(Statement(origin, written, key, value, implied))

    def refuse(self, origin: Origin, sentence: str) -> None:
        self.refused.append((origin, sentence))

    def value(self, key: str) -> Any:
        """The value for a key; None without one."""
        return next((statement.value for statement in self.said if statement.key == key), None)


def shown(value: Any) -> str:
    """A value in the notation of recipes."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)
