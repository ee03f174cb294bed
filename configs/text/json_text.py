"""Standard JSON: finite numbers, unique keys; errors are reported with the line."""

import json
import math
import re
from typing import Any, NoReturn

from phalanx.configs.origin import Origin, Problem
from phalanx.configs.text.encodings import brief, control, line_of

_LONGEST = 300
_DEEPEST = 32
_SENTENCES = (
    ("property name", "a key in double quotes is expected here; a comma before } is one too many"),
    (
        "Expecting value|trailing comma",
        "a value is missing or not JSON (text needs double quotes), or a comma is one too many",
    ),
    ("Extra data", "something follows after the end. Keep one object"),
    ("Unterminated string|control character", "the text that begins here does not end in its line. Close its double quotes"),
    (r"\\", r"a backslash begins an escape: write \\ for one"),
    ("',' delimiter", "a comma is missing before this, or a bracket is not closed"),
    ("':' delimiter", "a colon is missing after the key"),
)


class _Fault(Exception):
    pass


class KeyTwice(ValueError):
    """A key occurs twice in an object, of which a parser would silently take the last.

    Attributes:
        key: as a sentence shows it.
    """

    def __init__(self, key: str):
        self.key = repr(brief(key))
        super().__init__(f"the key {self.key} occurs twice")


def parse_json(text: str, path: str) -> Any:
    """The value of a JSON text.

    Raises:
        Problem: if it is not JSON.
    """
    try:
        value = json.loads(
            text, object_pairs_hook=each_key_once, parse_int=_integer, parse_float=_finite, parse_constant=_refuse_constant
        )
        _check(value, 0)
    except json.JSONDecodeError as error:
        said = f"this is not JSON: {line_of(text, error.lineno)}: {explain(error)}."
        raise Problem(Origin(path, error.lineno), said) from None
    except KeyTwice as fault:
        raise Problem(Origin(path), f"{fault}. Keep one of them.") from None
    except _Fault as fault:
        raise Problem(Origin(path), str(fault)) from None
    except RecursionError:
        raise Problem(Origin(path), _TOO_DEEP) from None
    return value


def explain(error: json.JSONDecodeError) -> str:
    """The explanation of an error."""
    return next((sentence for pattern, sentence in _SENTENCES if re.search(pattern, error.msg)), "it is broken here")


_TOO_DEEP = f"more than {_DEEPEST} levels of nesting. Write it flatter."


def _check(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise _Fault(_TOO_DEEP)
    for text in value if isinstance(value, dict) else [value] if isinstance(value, str) else []:
        if (unseen := control(text)) is not None:
            raise _Fault(f"{unseen[0]} is in the text {brief(text)!r}. Remove it.")
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        _check(below, depth + 1)


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, for `json.loads(object_pairs_hook=...)`.

    Raises:
        KeyTwice: if a key occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyTwice(next(key for key in found if keys.count(key) > 1))
    return found


def _integer(text: str) -> int:
    if len(text) > _LONGEST:
        raise _Fault(f"{brief(text)} is a too long number. Correct it.")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _Fault(f"{brief(text)} is larger than any number of 64 bits. Correct it.")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise _Fault(f"{text} is not a JSON number. Correct it.")
