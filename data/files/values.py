"""Numbers and names in data files, as the many tools that write them spell them. No torch here.

A value is kept, or converted where it can mean one thing only (`64.0` and `"64"` are the whole number 64), or it is none: then
the caller refuses it, naming file, id and key. Nothing is rounded, and nothing is guessed.
"""

import math
import re
from typing import Any

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LARGEST = 1 << 63  # what a whole number may not reach: ids and sides above are no ids and sides


def number(value: Any) -> float | None:
    """A number, or a text that is one; it may be infinite or NaN. None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = value.strip()
        return float(value) if len(value) < 400 and _NUMBER.fullmatch(value) else None
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def whole(value: Any) -> int | None:
    """A whole number below 2**63, also as `64.0` or as text. None for anything else."""
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) and len(value) < 30:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        read = number(value)
        if read is None or not read.is_integer():
            return None
        value = int(read)
    return value if abs(value) < _LARGEST else None


def flag(value: Any) -> bool | None:
    """Yes or no, as true and false, 1 and 0, in whatever type; no where it is null. None for anything else."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    return {0: False, 1: True}.get(whole(value))  # type: ignore[arg-type]


def name(value: Any) -> str | None:
    """A name: text that is not empty and can be written anywhere, or a whole number. None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = whole(value)
        return None if value is None else str(value)
    if not isinstance(value, str) or not value.strip() or _CONTROL.search(value):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return None
    return value


def has_control(name: str) -> bool:
    """Whether a name has characters that move a cursor instead of being read."""
    return _CONTROL.search(name) is not None


def key(value: Any) -> int | str | None:
    """An id, equal for all spellings of it: a whole number, or a text that is none. None for anything else."""
    read = whole(value)
    # "007" is not 7 to whoever wrote it.
    if read is not None and not (isinstance(value, str) and str(read) != value.strip()):
        return read
    return name(value) if isinstance(value, str) else None
