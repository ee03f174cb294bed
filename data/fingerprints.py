"""A number for what is annotated of each sample, so that an edit of any is noticed. No torch here.

Classes count by their names, and objects of a sample in any order: neither another file's numbers nor its order is an edit.
"""

import hashlib
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from phalanx.data.files.string_array import StringArray

Fingerprints = NDArray[numpy.uint64]


def of_labels(classes: Sequence[str], labels: NDArray[numpy.integer], ends: NDArray[numpy.int64]) -> Fingerprints:
    """Of several labels a sample.

    Args:
        labels: of all samples, numbers of classes.
        ends: int64 `[samples + 1]`: sample `i` has those from `ends[i]` to `ends[i + 1]`.

    Returns:
        `[samples]`.
    """
    return _sums(_of_classes(classes)[labels], ends)


def of_objects(
    classes: Sequence[str],
    labels: NDArray[numpy.integer],
    ends: NDArray[numpy.int64],
    numbers: Sequence[NDArray[numpy.generic]],
    texts: StringArray | None,
) -> Fingerprints:
    """Of objects with numbers, each `[objects]`, and maybe a text."""
    found = _of_classes(classes)[labels]
    for values in numbers:
        plain = numpy.nan_to_num(values.astype(numpy.float64), nan=-1.0) + 0.0  # of zeros and NaNs there are several
        found = _mixed(found ^ plain.view(numpy.uint64))
    if texts is not None:
        found = _mixed(found ^ numpy.array([_of_text(texts[place]) for place in range(len(texts))], numpy.uint64))
    return _sums(found, ends)


def digest(fingerprints: Fingerprints) -> str:
    """Of all samples in their order."""
    return hashlib.blake2b(fingerprints.astype("<u8").tobytes(), digest_size=16).hexdigest()


def _of_classes(classes: Sequence[str]) -> Fingerprints:
    return numpy.array([_of_text(name) for name in classes], numpy.uint64)


def _of_text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest(), "little")


def _mixed(values: Fingerprints) -> Fingerprints:
    """mix64 of Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014, in variant 13."""
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))


def _sums(values: Fingerprints, ends: NDArray[numpy.int64]) -> Fingerprints:
    """The sum of each sample's own, modulo 2**64."""
    totals = numpy.zeros(len(values) + 1, numpy.uint64)
    numpy.cumsum(values, out=totals[1:])
    return totals[ends[1:]] - totals[ends[:-1]]
