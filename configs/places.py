"""Folders and files that a recipe names: `~` is home, and machine-specific ones become absolute.

A run may then be resumed from another folder. Keys of the experiment (`model.weights`, `./file.py:Class`) stay as
written, since they are part of the digest; they are relative to the current folder of a command.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phalanx.configs import credentials

_HOME = ("runs", "data.root", "data.cache", "dist.deepspeed")
_KEPT_ABSOLUTE = ("data.root", "data.cache", "dist.deepspeed")
_OF_EXPERIMENT = ("model.weights", "model.backbone_weights", "task.name", "data.name")
_VARIABLE = re.compile(r"(?:^|/)\$(?:\w+|\{\w+\})(?=/|$)")
_URL = re.compile(r"[A-Za-z][\w+.-]*://")
_WORDS = ("ram", "disk", "memory", "auto", "true", "false", "yes", "no", "on", "off", "0", "1")


def faults(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for what is given in place of a folder or a file of this machine, and is none.

    Args:
        values: as files and overrides have them, before anything is made absolute.
    """
    for key in (*_HOME, *_OF_EXPERIMENT):
        value = _there(values, key.split("."))
        if not isinstance(value, str) or "\0" in value or credentials.found(value):
            continue
        given = f"{key}={value[:200]}"
        if os.path.exists(value):
            if key == "runs" and not os.path.isdir(value):
                yield key, f"{given} is not a folder. Set runs=FOLDER."
        elif _VARIABLE.search(value):
            yield (
                key,
                f"{given} holds a variable, which is not replaced in recipes. Write the path, with ~ for the home directory.",
            )
        elif key in _HOME and _URL.match(value):
            yield key, f"{given} is a URL; only a path on this machine will do. Copy or mount it, and set {key} to its path."
        elif key == "data.cache" and value.lower() in _WORDS:
            yield (
                key,
                f"{given} is not a folder. Name one, as /dev/shm/NAME (in memory) or one on a local disk; null for no cache.",
            )


def _there(values: Any, key: list[str]) -> Any:
    for part in key:
        values = values.get(part) if isinstance(values, dict) else None
    return values


def at_home(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with `~` and `~user` replaced in those that name a folder or a file of this machine."""
    for key in _HOME:
        values = _changed(values, key.split("."), os.path.expanduser)
    return values


def absolute(values: dict[str, Any]) -> dict[str, Any]:
    """The values, with relative paths made absolute from the current folder."""
    for key in _KEPT_ABSOLUTE:
        values = _changed(values, key.split("."), lambda path: os.path.abspath(path) if path and "://" not in path else path)
    return values


def _changed(values: dict[str, Any], key: list[str], change: Any) -> dict[str, Any]:
    there = values.get(key[0])
    if len(key) == 1 and isinstance(there, str) and "\0" not in there:
        return {**values, key[0]: change(there)}
    if len(key) > 1 and isinstance(there, dict):
        return {**values, key[0]: _changed(there, key[1:], change)}
    return values


def found(path: str) -> Path:
    """The file or folder of a key of the experiment."""
    return Path(path).expanduser() if path.startswith("~") and os.path.expanduser(path) != path else Path(path)


def beginning(path: str | Path) -> str:
    """The base of a relative path, for a message; empty for an absolute one."""
    return "" if os.path.isabs(os.path.expanduser(path)) else f" (it is relative to {os.getcwd()})"
