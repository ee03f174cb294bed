"""A user's own task, dataset or model: a class in a file, named `./file.py:Class`. Loaded without touching `sys.path`."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError

_NAMED = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")


def is_own(name: str) -> bool:
    """Whether a name means a class in the user's file."""
    return _NAMED.fullmatch(name) is not None


def check(key: str, name: str) -> None:
    """Whether the file is there, without running it.

    Raises:
        UserError: naming the key and the file.
    """
    match = _NAMED.fullmatch(name)
    assert match is not None
    if not Path(match["path"]).is_file():
        raise UserError(f"{key}={name}: there is no file {match['path']}. Give the path from the folder you start in.")


def load_own(key: str, name: str) -> Any:
    """The class that `./file.py:Class` names.

    Raises:
        UserError: where the file or the class is not there. What the file itself raises passes as it is.
    """
    check(key, name)
    match = _NAMED.fullmatch(name)
    assert match is not None
    path = Path(match["path"]).resolve()
    module_name = f"phalanx_own_{path.stem}_{abs(hash(path)):x}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses and pickling look a class's module up by name
        spec.loader.exec_module(module)
    found = getattr(sys.modules[module_name], match["name"], None)
    if found is None:
        raise UserError(f"{key}={name}: {path} has no {match['name']}. Name a class that is defined there.")
    return found


def load_ours(place: str) -> Any:
    """The object that `package.module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
