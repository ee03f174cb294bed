"""A target: what inputs look like, and the door that they are given to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.case import Case


def _nothing() -> None:
    pass


def _no_refusals() -> tuple[type[Exception], ...]:
    from phalanx.configs.errors import UserError

    return (UserError,)


@dataclass(frozen=True)
class Target:
    """A door.

    Attributes:
        meaning: what is tried, for the page.
        inputs: how many a round of the tests tries.
        cases: what is tried.
        door: is given a case, whose files lie in the working folder; returns where it is accepted.
        refusals: exceptions that refuse, each with a sentence.
        prepare: imports what the door needs.
    """

    name: str
    meaning: str
    inputs: int
    cases: Callable[[], st.SearchStrategy[Case]]
    door: Callable[[Case, Path], None]
    refusals: Callable[[], tuple[type[Exception], ...]] = _no_refusals
    prepare: Callable[[], None] = _nothing
