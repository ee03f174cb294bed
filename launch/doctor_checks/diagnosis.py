"""What a check of `phalanx doctor` found."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["green", "yellow", "red"]


@dataclass(frozen=True)
class Diagnosis:
    """
    Attributes:
        check: what was looked at, in a word or two.
        level: green: as it should be; yellow: works, with a drawback; red: training fails, or may lose work.
        said: what was found, with figures.
        remedy: what to do; empty for green.
    """

    check: str
    level: Level
    said: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
