"""What an answer to an input must be: accepted, or refused with a sentence, within bounds of time and memory."""

import contextlib
import io
import re
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.case import Case

CPU_S = 10.0  # of processor time an input; most take a hundredth of it
MEMORY_BYTES = 3 << 30  # address space on top of what an idle process has
LONGEST_LINE, LONGEST = 2_000, 20_000  # characters of a message

# Words of parsers and of Python that no message of ours has.
INTERNALS = re.compile(
    r"Traceback|pydantic|Validator\(|<[^<>]* object at 0x|Input should|String should|codec can't|should match pattern|"
    r"mapping values are not allowed|while parsing|while scanning|expected <|could not determine a constructor|"
    r"not well-formed|no element found|invalid literal for|could not convert string|NoneType|list index out of range|"
    r"Expecting value|Extra data: line|Expecting property|Expecting ',' delimiter|object has no attribute|"
    r"\berrno\b|embedded null|must be str|unhashable|Exceeds the limit"
)


class Broken(AssertionError):
    """The law was broken; the message is the kind."""


class Refused(Exception):
    """A door of ours refused; the message is what it said."""


@dataclass(frozen=True)
class Answer:
    """What became of an input.

    Attributes:
        outcome: accepted, refused or finding.
        kind: of a finding, so that alike ones have one.
        said: the message, or the traceback.
    """

    outcome: str
    kind: str = ""
    said: str = ""
    cpu_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(door: Callable[[Case, Path], None], refusals: tuple[type[Exception], ...], case: Case, folder: Path) -> Answer:
    """Knocks at a door."""
    begun = time.process_time()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        answer = _ask(door, refusals, case, folder)
    taken = time.process_time() - begun
    if answer.outcome != "finding":
        if taken > CPU_S:
            answer = Answer("finding", "slow", f"{taken:.1f} s of processor time; {answer.said}")
        for warning in warned:
            if issubclass(warning.category, RuntimeWarning | ResourceWarning):  # such as numbers that overflow
                place = f"{Path(warning.filename).name}: {_plain(str(warning.message))}"
                answer = Answer("finding", f"warning {place}", str(warning.message))
    return Answer(answer.outcome, answer.kind, answer.said[:6_000], round(taken, 3))


def _ask(door: Callable[[Case, Path], None], refusals: tuple[type[Exception], ...], case: Case, folder: Path) -> Answer:
    try:
        door(case, folder)
    except Broken as broken:
        return Answer("finding", str(broken).splitlines()[0][:160], traceback.format_exc())
    except (*refusals, Refused) as refusal:
        said = str(refusal)
        fault = fault_of_message(said, case)
        return Answer("finding", fault, said) if fault else Answer("refused", "", said)
    except BaseException as error:
        return Answer("finding", _kind(error), traceback.format_exc(limit=-12))
    return Answer("accepted")


def fault_of_message(said: str, case: Case) -> str | None:
    """What is wrong with a refusal's words; None for nothing. What the input itself says may be repeated."""
    if not said.strip():
        return "an empty message"
    found = INTERNALS.search(said)
    if found and not case.holds(found[0]):
        return f"a parser's words: {found[0]}"
    if len(said) > LONGEST or max(map(len, said.splitlines())) > LONGEST_LINE:
        return "a message without end"
    if any((character < " " and character != "\n") or character in "\x7f\u202e" for character in said):
        return "control characters in the message"
    return None


def _plain(text: str) -> str:
    return re.sub(r"\d+", "N", " ".join(text.split()))[:80]


def _kind(error: BaseException) -> str:
    """The exception, and the innermost place of our code that it passed."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/tests/" not in f.filename]
    ours = [f for f in frames if "site-packages" not in f.filename and "/lib/python" not in f.filename]
    frame = (ours or frames or [None])[-1]
    name = Path(frame.filename).parent.name + "/" + Path(frame.filename).name if frame else "?"
    return f"{type(error).__name__} in {name} {frame.name if frame else ''}"


def bound_memory() -> None:
    """From here on this process gets no more than the bound."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bytes_now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (bytes_now + MEMORY_BYTES,) * 2)


@contextlib.contextmanager
def _terminal() -> Iterator[tuple[io.TextIOWrapper, io.TextIOWrapper]]:
    """Output as a terminal in UTF-8 takes it."""
    before = sys.stdout, sys.stderr
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    sys.stdout, sys.stderr = out, err
    try:
        yield out, err
    finally:
        sys.stdout, sys.stderr = before


def command(arguments: list[str], fine: tuple[int, ...] = (0,)) -> str:
    """What `phalanx ARGUMENTS` prints, in this process.

    Args:
        fine: exit codes that mean that it did what it was asked.

    Raises:
        Refused: with what it said, where it ends with another one.
    """
    from phalanx.launch import main

    with _terminal() as (out, err):
        try:
            code = main.main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        out.flush()
        err.flush()
        printed, said = (wrapper.buffer.getvalue().decode("utf-8", "replace") for wrapper in (out, err))  # type: ignore[attr-defined]
    if code in fine:
        return printed
    if code != 2:
        raise Broken(f"exit code {code} of {arguments[0]}")
    if not said.strip() and not printed.strip():
        raise Broken(f"{arguments[0]} refused without a word")
    raise Refused(said or printed)
