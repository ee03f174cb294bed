"""Numbers and names in data files, in the spellings of many tools. No torch here.

A value is kept, or converted if it can mean one thing only (`64.0` and `"64"` are the integer 64), or it is None: then the
caller refuses it, naming file, id and key. Nothing is rounded, and nothing is guessed.
"""

import math
import re
from typing import Any

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LARGEST = 1 << 63  # bound of integers: larger ids and sides are not valid


def number(value: Any) -> float | None:
    """A number, or a string that is one; it may be infinite or NaN. None for anything else."""
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


def integer(value: Any) -> int | None:
    """An integer below 2**63, also as `64.0` or as a string. None for anything else."""
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) and len(value) < 30:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        read = number(value)
        if read is None or not read.is_integer():
            return None
        value = int(read)
    return value if abs(value) < _LARGEST else None


def flag(value: Any) -> bool | None:
    """A boolean, from true and false, 1 and 0, in any type; False for null. None for anything else."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    return {0: False, 1: True}.get(integer(value))  # type: ignore[arg-type]


def name(value: Any) -> str | None:
    """A name: a non-empty string of valid characters, or an integer. None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = integer(value)
        return None if value is None else str(value)
    if not isinstance(value, str) or not value.strip() or _CONTROL.search(value):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return value


def has_control(name: str) -> bool:
    """Whether a name has control characters."""
    return _CONTROL.search(name) is not None


def key(value: Any) -> int | str | None:
    """An id, equal for all spellings of it: an integer, or another string. None for anything else."""
    read = integer(value)
    # "007" is not the same id as 7.
    if read is not None and not (isinstance(value, str) and str(read) != value.strip()):
        return read
    return name(value) if isinstance(value, str) else None
