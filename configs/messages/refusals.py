"""Pydantic's errors in our messages: the key, its value, the allowed values, a suggestion."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from phalanx.configs.launchers.statement import shown
from phalanx.configs.messages import nearest
from phalanx.configs.schema import keys
from phalanx.configs.text.encodings import brief

MOST_UNKNOWN = 10
MOST = 30
_HIDDEN = ("slurm.setup", "slurm.extra")  # lines that may hold a key or a password: never repeated

_WANTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of at most 18 digits",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "string_sub_type": "text",
    "string_unicode": "text",
    "list_type": "a list, such as [A, B]",
    "tuple_type": "a list, such as [A, B]",
    "dict_type": "a section of keys, such as {{A: B}}",
    "mapping_type": "a section of keys, such as {{A: B}}",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} values",
    "literal_error": "one of {expected}",
}
TYPES = frozenset({*_WANTED, "missing", "extra_forbidden", "model_type", "model_attributes_type", "value_error"})
_NAMES = {key.name for key in keys()}
_NULLABLE = {key.name for key in keys() if key.kind.endswith("or null")}
_SECTIONS = {name.rpartition(".")[0] for name in _NAMES} - {""}


def sentences(error: ValidationError, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence, one per wrong key.

    Args:
        values: the validated values.
    """
    unknown: list[str] = []
    reported: set[str] = set()
    for item in error.errors(include_url=False):
        if item["type"] == "extra_forbidden":
            unknown += _leaves(item["input"], ".".join(map(str, item["loc"])))
            continue
        key = _key(item["loc"])
        if key in reported:  # each member of a union reports an error
            continue
        reported.add(key)
        yield key, _sentence(item, key, values)
    for key in unknown[:MOST_UNKNOWN]:
        yield key, f"unknown key {brief(key)}.{nearest.key(key)}"
    if (more := len(unknown) - MOST_UNKNOWN) > 0:
        yield (
            unknown[MOST_UNKNOWN],
            f"{more} more unknown keys. `phalanx config --keys` lists all keys.",
        )


def _leaves(value: Any, key: str) -> list[str]:
    """The keys below an unknown section, to be reported one by one; the key itself if there are none."""
    if not isinstance(value, dict) or not value:
        return [key]
    return [leaf for name, below in value.items() for leaf in _leaves(below, f"{key}.{name}")]


def _key(place: tuple[int | str, ...]) -> str:
    """The key or section of an error's location."""
    key = ""
    for part in place:
        longer = f"{key}.{part}" if key else str(part)
        if longer not in _NAMES and longer not in _SECTIONS:
            break
        key = longer
    return key


def _sentence(item: Any, key: str, values: Mapping[str, Any]) -> str:
    kind, below = item["type"], item["loc"][len(key.split(".")) :]
    if kind == "missing" and not below:
        meaning = next((k.meaning for k in keys() if k.name == key), "")
        return f"{key} is missing. Set it" + (f": {meaning}." if meaning else ".")
    if kind in ("model_type", "model_attributes_type"):
        suggestion = nearest.of_section(key, item["input"])
        return f"{key} is a section, not {_shown(key, item['input'])}.{suggestion or ' Write its keys below it.'}"
    written, value = _inside(key, below, values)
    wanted = _wanted(item, kind)
    remedy = nearest.value(key, value) if isinstance(value, str) else ""
    if not remedy and key in _NULLABLE and isinstance(value, str) and value.lower() in nearest.NONE:
        remedy = f" Did you mean {key}=null?"
    if not remedy and kind == "literal_error" and isinstance(value, str):
        allowed = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        close = difflib.get_close_matches(value[:50].lower(), allowed, n=1, cutoff=0.5)
        remedy = f" Did you mean {close[0]}?" if close else ""
    return f"{written}={_shown(key, value)} is not allowed; wanted: {wanted}.{remedy}"


def _wanted(item: Any, kind: str) -> str:
    if kind == "missing":  # of a list of fixed length
        return "a list of two values"
    if kind == "value_error":
        return str(item["ctx"]["error"])
    words = _WANTED.get(kind)
    if words is None:
        return "another value (`phalanx config --keys` says which)"
    return words.format_map({name: _number(value) for name, value in item.get("ctx", {}).items()})


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _inside(key: str, below: tuple[int | str, ...], values: Mapping[str, Any]) -> tuple[str, Any]:
    """The part of a list or section at an error's location, in a recipe's notation, and its value."""
    value: Any = values
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    written = key
    for part in below:  # pydantic's names of types are between them
        if isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
            written, value = f"{written}[{part}]", value[part]
        elif isinstance(value, Mapping) and part in value:
            written, value = f"{written}.{brief(part)}", value[part]
    return written, value


def _shown(key: str, value: Any) -> str:
    return "(not shown)" if key.startswith(_HIDDEN) else brief(shown(value))
