"""The interface of readers of pretrained weights: names and shapes first, then one tensor at a time."""

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

# What a reader that meets nonsense lets through from Python and from parsers.
_FROM_PYTHON = re.compile(r"invalid literal|codec can't|while parsing|unpack|out of range|object|Exceeds the limit|recursion")
# The long advice of libraries, which names their own switches.
_FROM_LIBRARIES = (
    (re.compile(r"TorchScript"), "it is a TorchScript archive, which holds a program"),
    (re.compile(r"central directory|Invalid argument|EOF|inline_container|deserializing header|hasRecord|^\d+$"),
     "it is cut short or damaged, or of another kind"),
    (re.compile(r"weights_only|Weights only"), "it was not written by torch.save, or holds more than tensors"),
)  # fmt: skip
_LONGEST = 300  # characters of a reason: it may repeat the file


# What an unpickler that follows false instructions meets; its words are about Python.
_OF_PYTHON = (TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, UnicodeError, struct.error)


class BadWeights(ValueError):
    """The file or folder of weights cannot be used; the message has the reason."""


class Source(Protocol):
    """Named tensors on the disk."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor, by its name in the file."""

    @property
    def flat(self) -> bool:
        """Whether tensors may be stored without their shape, as one row of numbers."""

    @property
    def under(self) -> str:
        """The key under which the tensors lie in the file; empty where they lie at the top."""

    @property
    def averages(self) -> str:
        """The key of averaged weights (EMA) beside them, which were not loaded; empty without any."""

    def read(self, name: str) -> Tensor:
        """One tensor, in CPU memory; it may be a view of the file."""

    def close(self) -> None:
        """Lets go of the files."""


class InMemory:
    """Tensors that are there already, or mapped from a file that is read where they are used."""

    flat = False

    def __init__(self, tensors: Mapping[str, Tensor], under: str = "", averages: str = ""):
        self._tensors, self.under, self.averages = tensors, under, averages
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name]

    def close(self) -> None:
        self._tensors = {}


def reason(error: Exception) -> str:
    """A short reason why a library's safe reader refuses a file."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return f"it asks for {asked[1]}, which is not a tensor"
    message = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if (ours := next((own for pattern, own in _FROM_LIBRARIES if pattern.search(message)), None)) is not None:
        return ours
    broken = isinstance(error, _OF_PYTHON) or _FROM_PYTHON.search(message)
    return "its content is broken" if broken else message[:_LONGEST]


def _other_kind(path: Path) -> str | None:
    """What a download often leaves in place of weights, and what to do."""
    try:
        with open(path, "rb") as file:
            start = file.read(200)
    except OSError:
        return None
    if not start:
        return "this file is empty. Fetch it again."
    if start.startswith(b"version https://git-lfs"):
        return "this is a pointer of Git LFS, not the file. Fetch it by `git lfs pull`."
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "this is a web page, not weights. Fetch the file itself."
    if start.startswith(b"\x1f\x8b"):
        return "this is compressed by gzip. Unpack it."
    return None


def unreadable(path: Path, error: Exception) -> BadWeights:
    """The refusal of a file that its library's safe reader does not take."""
    if (kind := _other_kind(path)) is not None:
        return BadWeights(f"{path}: {kind}")
    return BadWeights(f"{path}: these weights cannot be read safely ({reason(error)}). Save only the model's state_dict.")
