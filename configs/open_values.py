"""Values whose type the schema leaves open (`options`): unquoted text means a number or a boolean, as in YAML 1.2."""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from phalanx.configs.text.encodings import brief
from phalanx.configs.text.yaml_reading import Plain

_MOST_DIGITS = 300


def typed(value: Any) -> Any:
    """Unquoted text to number or boolean (YAML 1.2 core schema).

    Raises:
        ValueError: for numbers that no file can represent.
    """
    if isinstance(value, dict):
        return {key: typed(below) for key, below in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if value in ("true", "True", "false", "False"):
        return value[0] in "tT"
    if re.fullmatch(r"[+-]?[0-9]+", value):
        if len(value) > _MOST_DIGITS:
            raise ValueError(f"{brief(value)} is a too long number; put it in quotes if it is text")
        return int(value)
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{brief(value)} is larger than any number of 64 bits; put it in quotes if it is text")
        return number
    if re.fullmatch(r"[+-]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", value):
        raise ValueError(f"{value} is not a finite number; leave it out, or put it in quotes if it is text")
    return str(value)


def faults(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for values that `typed` refuses."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from faults(below, f"{key}.{name}")
        return
    for item in value if isinstance(value, list) else [value]:
        try:
            typed(item)
        except ValueError as error:
            yield key, f"{key}: {error}."


class Dumper(yaml.SafeDumper):
    """Writes YAML that is read back to the same values: ambiguous text is quoted."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    try:
        clear = typed(Plain(text)) == text
    except ValueError:
        clear = False
    if not text.isprintable():  # line breaks, some of which YAML folds
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if clear else "'")


Dumper.add_representer(str, _text)
