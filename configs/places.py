"""Folders and files that a recipe names: `~` is home, and what belongs to this machine is kept absolute.

A run may then be resumed from another folder. Keys of the experiment (`model.weights`, `./file.py:Class`) stay as they are
written, since they are part of the digest; they are looked up from the folder that a command starts in.
"""

import os
from pathlib import Path
from typing import Any

_HOME = ("runs", "data.root", "data.cache", "dist.deepspeed")
_KEPT_ABSOLUTE = ("data.root", "data.cache", "dist.deepspeed")


def at_home(values: dict[str, Any]) -> dict[str, Any]:
    """The values, `~` and `~user` replaced in those that name a folder or a file of this machine."""
    for key in _HOME:
        values = _changed(values, key.split("."), os.path.expanduser)
    return values


def absolute(values: dict[str, Any]) -> dict[str, Any]:
    """The same, relative ones taken from the folder that the command starts in."""
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
    """The file or folder that a key of the experiment names."""
    return Path(path).expanduser() if path.startswith("~") and os.path.expanduser(path) != path else Path(path)


def beginning(path: str | Path) -> str:
    """Where a relative path begins, for a message; nothing for an absolute one."""
    return "" if os.path.isabs(os.path.expanduser(path)) else f" (it is relative to {os.getcwd()})"
