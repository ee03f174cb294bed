"""What a check of `gpu.py` is, what it is given, and how it can end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

# How a check ends: what it says holds; it does not; it cannot be shown on this device; an exception; out of time; a signal or
# an exit without a result; the whole run was out of time before it.
Status = Literal["held", "failed", "not shown", "raised", "hung", "killed", "not run"]
Size = Literal["full", "small", "smoke"]
Tell = Callable[[str, dict[str, Any]], None]


class NotShown(Exception):
    """What a check is for cannot be shown on this device; the message says why."""


class Check(NamedTuple):
    """A check, by name: imported only in the process that runs it.

    Attributes:
        place: `module:function`; the function is given a `Bench` and returns whether it held, and its figures.
        limit_s: after which it counts as hung, on a GPU.
        environment: variables that must be set before CUDA starts.
        expected: how it must end; another end than `held` only for those that try the harness itself.
        smoke: whether `--smoke` runs it.
    """

    name: str
    place: str
    limit_s: float
    environment: Mapping[str, str] = {}
    expected: Status = "held"
    smoke: bool = True


class Way(NamedTuple):
    """How checks are run.

    Attributes:
        device: `cuda` or `cpu`.
        pretended: whether the CUDA device is the pretended one.
        size: `full` on a GPU; `small`, what CPU cores do in seconds; `smoke`, less of that.
    """

    device: str
    pretended: bool
    size: Size


@dataclass(frozen=True)
class Bench:
    """What a check is given.

    Attributes:
        folder: for its files; empty at first, removed at the end.
        tell: reports a part of the results at once: its name, and figures.
    """

    way: Way
    folder: Path
    tell: Tell

    @property
    def device(self) -> str:
        return self.way.device

    @property
    def full(self) -> bool:
        """Whether the sizes are those of a GPU."""
        return self.way.size == "full"

    @property
    def on_gpu(self) -> bool:
        """Whether this is a real GPU."""
        return self.way.device == "cuda" and not self.way.pretended
