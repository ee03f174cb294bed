"""A user's own task, dataset or model: a class in a file, `./file.py:Class`, or of an installed package, `package:Class`.

A file is loaded without touching `sys.path`.

A job on a cluster runs from a snapshot of the code (`phalanx.slurm.snapshot`): PHALANX_OWN_CODE names the folder in it
with copies of such files, and a copy there overrides the file itself, which may have been edited since.
"""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from phalanx.configs import places
from phalanx.configs.errors import UserError

OWN_CODE = "PHALANX_OWN_CODE"
_NAMED = re.compile(r"(?P<path>.+\.py):(?P<name>[A-Za-z_]\w*)")
# Not timm:NAME, which is meant for timm/NAME.
_PACKAGED = re.compile(r"(?!(timm|torchvision):)(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")


_loading: list[str] = []


def is_own(name: str) -> bool:
    """Whether a name refers to a class in the user's file, or in an installed package."""
    return in_file(name) or _PACKAGED.fullmatch(name) is not None


def in_file(name: str) -> bool:
    """Whether a name refers to a class in the user's file."""
    return _NAMED.fullmatch(name) is not None


def _parts(name: str) -> tuple[str, str]:
    """Path and class of a name."""
    match = _NAMED.fullmatch(name)
    assert match is not None
    return match["path"], match["name"]


def place(name: str) -> PurePosixPath:
    """The path of a file's copy in a folder of such copies: its own path, or under `elsewhere/`.

    It depends only on the name as written, so that a job in another folder, or on a node that mounts the home directory
    elsewhere, finds it.
    """
    path = PurePosixPath(_parts(name)[0])
    if path.is_absolute() or ".." in path.parts:
        word = hashlib.sha256(os.fsencode(str(path))).hexdigest()[:8]
        return PurePosixPath("elsewhere", f"{word}-{path.name}")
    return path


def file_of(name: str) -> Path:
    """The file of a name: its copy in the folder PHALANX_OWN_CODE if there is one, else the file itself."""
    folder = os.environ.get(OWN_CODE)
    if folder and (copy := Path(folder, place(name))).is_file():
        return copy
    return places.found(_parts(name)[0])


def files(value: Any) -> list[str]:
    """Those of a recipe's value, or of its list, that refer to classes in the user's files."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str) and in_file(each)]


def digests(values: Iterable[Any]) -> dict[str, str]:
    """SHA-256 of each file that is named by one of a recipe's values, by name: an edited file is noticed on resume."""
    names = sorted({name for value in values for name in files(value)})
    return {name: hashlib.sha256(file_of(name).read_bytes()).hexdigest() for name in names}


def refuse_half(key: str, name: str) -> None:
    """Refuses an incomplete name of a user's own class.

    Raises:
        UserError: with the form of such names.
    """
    if ".py" in name or name.startswith((".", "/", "~")) or re.fullmatch(r"\w+(\.\w+)*[.:][A-Z]\w*", name):
        raise UserError(
            f"{key}={name}: your own class is named by file and class, ./file.py:Class, or by an installed module and class, "
            "package.module:Class. Write both."
        )


def check(key: str, name: str) -> None:
    """Checks that the file exists, is Python, and defines the class, as far as known without running it.

    Raises:
        UserError: naming the key and the file, or the package that is not installed.
    """
    if not in_file(name):
        _check_installed(key, name)
        return
    path, wanted = file_of(name), _parts(name)[1]
    if not path.is_file():
        raise UserError(
            f"{key}={name}: there is no file {_parts(name)[0]}{places.beginning(_parts(name)[0])}. "
            "Give the path relative to the current folder."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they appear when the file is run
            source = path.read_bytes()
            compile(source, path, "exec", dont_inherit=True)
            names = _defined(ast.parse(source))
    except OSError as error:
        raise UserError(f"{key}={name}: {path} cannot be read: {error.strerror}. Make it readable.") from None
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UserError(f"{key}={name}: {path}{line} is not Python: {error.msg}. Correct it.") from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise UserError(f"{key}={name}: {path} is not Python: {error or type(error).__name__}. Name a Python file.") from None
    if names is not None and wanted not in names:
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.6)
        remedy = f"Did you mean {near[0]}?" if near else "Name a class that is defined there."
        raise UserError(f"{key}={name}: {path} has no {wanted}. {remedy}")


def _check_installed(key: str, name: str) -> None:
    package = name.partition(".")[0].partition(":")[0]
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        raise UserError(
            f"{key}={name}: there is no installed package {package}. Install it, or name a class in a file: ./file.py:Class."
        )


def _defined(module: ast.Module) -> set[str] | None:
    """The names that a module binds; None if only running it would show."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(module.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.Name) and node.id in ("globals", "exec", "eval", "setattr", "vars", "locals", "__import__"):
            return None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            if alias.name == "*":
                return None
            found.add((alias.asname or alias.name).split(".")[0])
        waiting += ast.iter_child_nodes(node)
    return None if "__getattr__" in found else found


def load_own(key: str, name: str) -> Any:
    """The class, or function, of `./file.py:Class` or `package.module:Class`.

    Raises:
        UserError: if the file, the package or the class is missing. Exceptions of the code itself pass unchanged.
    """
    check(key, name)
    if not in_file(name):
        return _load_installed(key, name)
    path, wanted = file_of(name).resolve(), _parts(name)[1]
    module_name = f"phalanx_own_{path.stem}_{abs(hash(path)):x}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses and pickle look up a class's module by name
        _loading.append(name)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
        finally:
            _loading.pop()
    found = getattr(sys.modules[module_name], wanted, None)
    if found is None:
        raise UserError(f"{key}={name}: {path} has no {wanted}. Name a class that is defined there.")
    return found


def is_loading() -> bool:
    """Whether a user's file is being loaded: code at its top level runs now, as it does when a script is started."""
    return bool(_loading)


def _load_installed(key: str, name: str) -> Any:
    module, _, wanted = name.partition(":")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the user's module imports
        raise UserError(f"{key}={name}: there is no installed module {error.name}. Install it, or correct the name.") from None
    if not hasattr(loaded, wanted):
        near = difflib.get_close_matches(wanted, dir(loaded), n=1, cutoff=0.6)
        remedy = f"Did you mean {near[0]}?" if near else "Name a class that is defined there."
        raise UserError(f"{key}={name}: the module {module} has no {wanted}. {remedy}")
    return getattr(loaded, wanted)


def load_ours(place: str) -> Any:
    """The object of `package.module:name`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
