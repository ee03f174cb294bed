"""Strings in a few arrays, for lists of millions of files. No torch here."""

import hashlib
import os
from collections.abc import Iterable

import numpy
from numpy.typing import NDArray

_AT_A_TIME = 1 << 14  # names whose digest is computed at once


class StringArray:
    """A sequence of file names.

    Python counts references inside each object, so a forked loader process that only reads a list of strings writes into
    its memory, and ends with a copy of it. These arrays stay shared.

    Args:
        content: uint8, the bytes of all names.
        starts, ends: int64 `[names]`, where each begins and ends.
    """

    def __init__(self, content: NDArray[numpy.uint8], starts: NDArray[numpy.int64], ends: NDArray[numpy.int64]):
        self._content, self._starts, self._ends = content, starts, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> "StringArray":
        """From strings."""
        encoded = [os.fsencode(name) for name in names]
        ends = numpy.cumsum(numpy.array([0, *map(len, encoded)], numpy.int64))
        return cls(numpy.frombuffer(b"".join(encoded), numpy.uint8), ends[:-1], ends[1:])

    def after(self, count: int) -> "StringArray":
        """All but the first `count`."""
        return StringArray(self._content, self._starts[count:], self._ends[count:])

    def taken(self, indices: NDArray[numpy.int64]) -> "StringArray":
        """The names at some indices, in that order."""
        return StringArray(self._content, self._starts[indices], self._ends[indices])

    def digest(self) -> str:
        """The digest of all names in order, independent of their storage."""
        found = hashlib.blake2b(digest_size=16)
        lengths = self._ends - self._starts
        found.update(lengths.astype("<i8").tobytes())
        for first in range(0, len(self), _AT_A_TIME):
            starts, own = self._starts[first : first + _AT_A_TIME], lengths[first : first + _AT_A_TIME]
            before = numpy.cumsum(own) - own
            places = numpy.repeat(starts - before, own) + numpy.arange(own.sum())
            found.update(self._content[places].tobytes())
        return found.hexdigest()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self._content[self._starts[index] : self._ends[index]].tobytes())
