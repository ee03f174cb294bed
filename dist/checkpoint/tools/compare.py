"""How two checkpoints differ, tensor by tensor; memory holds one piece at a time. No torch here."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from phalanx.dist.checkpoint.layout import ITEM_SIZE, Range
from phalanx.dist.checkpoint.tools.contents import TensorContent
from phalanx.dist.checkpoint.tools.sources import TensorSource

_PIECE = 1 << 20  # elements compared at a time
_BITS: dict[int, Any] = {1: numpy.uint8, 2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}
_NUMPY: dict[str, Any] = {"F64": numpy.float64, "F32": numpy.float32, "F16": numpy.float16, "BOOL": numpy.uint8}
_NUMPY |= {f"{kind}{bits}": numpy.dtype(f"{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)}
Array = NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """How a tensor a differs from b.

    Attributes:
        largest: max |a - b|; infinite if one of two differing numbers is not finite, or the shapes differ.
        relative: max |a - b| / max |b|, over the finite numbers of b.
        elements: how many differ in at least one bit (0 and -0 do).
        of: elements of a.
        note: how dtype or shape differ, if they do.
    """

    name: str
    largest: float
    relative: float
    elements: int
    of: int
    note: str | None = None


@dataclass(frozen=True)
class Comparison:
    """How two checkpoints differ.

    Attributes:
        tensors, scalars: number of those that both have.
        differing: the tensors that differ, worst first.
        within: number of tensors and scalars that differ by no more than the tolerance.
        only_a, only_b: tensors and scalars that the other lacks.
        differing_scalars: (name, in a, in b).
    """

    tensors: int
    scalars: int
    differing: tuple[Difference, ...]
    within: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    differing_scalars: tuple[tuple[str, Any, Any], ...]

    @property
    def equal(self) -> bool:
        return not (self.differing or self.only_a or self.only_b or self.differing_scalars)


def compare(a: TensorSource, b: TensorSource, tolerance: float | None = None) -> Comparison:
    """Compares two sources.

    Args:
        tolerance: max |a - b| / max |b| up to which a tensor or a scalar counts as equal; None: to the last bit.
    """
    common = [name for name in a.tensors if name in b.tensors]
    found = [d for name in common if (d := difference(name, a, b)) is not None]
    beyond = [d for d in found if tolerance is None or not d.relative <= tolerance]
    scalars = [name for name in a.scalars if name in b.scalars]
    apart = [name for name in scalars if not _same(a.scalars[name], b.scalars[name])]
    apart_beyond = [name for name in apart if tolerance is None or not _close(a.scalars[name], b.scalars[name], tolerance)]
    return Comparison(
        tensors=len(common),
        scalars=len(scalars),
        differing=tuple(sorted(beyond, key=lambda d: (-d.relative, -d.largest, d.name))),
        within=len(found) - len(beyond) + len(apart) - len(apart_beyond),
        only_a=tuple(_lacking(a, b)),
        only_b=tuple(_lacking(b, a)),
        differing_scalars=tuple((name, a.scalars[name], b.scalars[name]) for name in apart_beyond),
    )


def _lacking(one: TensorSource, other: TensorSource) -> Iterator[str]:
    """Names that only the first has. Other tools' files have no scalars, which is not a difference."""
    yield from (name for name in one.tensors if name not in other.tensors)
    if other.scalars:
        yield from (name for name in one.scalars if name not in other.scalars)


def difference(name: str, a: TensorSource, b: TensorSource) -> Difference | None:
    """How a tensor that both have differs; None if it is bitwise equal."""
    here, there = a.tensors[name], b.tensors[name]
    if here.shape != there.shape:
        note = f"shape {list(here.shape)} and {list(there.shape)}"
        return Difference(name, math.inf, math.inf, here.elements, here.elements, note)
    if here.dtype == there.dtype and all(a.read(name, part) == b.read(name, part) for part in _pieces(here)):
        return None
    largest = scale = 0.0
    count = 0
    for part in _pieces(here):
        x, y = a.read(name, part), b.read(name, part)
        differ = _differ(x, here.dtype, y, there.dtype)
        p, q = _numbers(x, here.dtype), _numbers(y, there.dtype)
        count += int(differ.sum())
        scale = max(scale, _scale(q))
        if differ.any():
            largest = max(largest, _largest(p[differ], q[differ]))
    formats = None if here.dtype == there.dtype else f"{here.dtype} and {there.dtype}"
    relative = largest / scale if scale else (math.inf if largest else 0.0)
    return Difference(name, largest, relative, count, here.elements, formats)


def _pieces(content: TensorContent) -> Iterator[Range]:
    for start in range(0, content.elements, _PIECE):
        yield Range(start, min(start + _PIECE, content.elements))


def _numbers(memory: memoryview, dtype: str) -> Array:
    """A tensor's elements as numbers; NaN for dtypes that numpy lacks."""
    if dtype == "BF16":  # the upper half of a float32
        return (numpy.frombuffer(memory, numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)
    if dtype in _NUMPY:
        return numpy.frombuffer(memory, _NUMPY[dtype])
    return numpy.full(len(memory) // ITEM_SIZE[dtype], numpy.nan)


def _differ(x: memoryview, x_dtype: str, y: memoryview, y_dtype: str) -> Array:
    """Which elements differ: in their bits, or between dtypes in their values."""
    if x_dtype == y_dtype:
        bits = _BITS[ITEM_SIZE[x_dtype]]
        result: Array = numpy.frombuffer(x, bits) != numpy.frombuffer(y, bits)
        return result
    p, q = _numbers(x, x_dtype), _numbers(y, y_dtype)
    return (p != q) & ~((p != p) & (q != q))


def _scale(numbers: Array) -> float:
    """The largest finite magnitude."""
    if numbers.dtype.kind != "f":
        return max(abs(int(numbers.max())), abs(int(numbers.min())))
    magnitudes = numpy.abs(numbers[numpy.isfinite(numbers)])
    return float(magnitudes.max()) if magnitudes.size else 0.0


def _largest(a: Array, b: Array) -> float:
    if a.dtype == b.dtype and a.dtype.kind in "iu":
        # Exact: the absolute difference of two 64-bit integers fits 64 unsigned bits.
        low, high = numpy.minimum(a, b), numpy.maximum(a, b)
        wide = numpy.int64 if a.dtype.kind == "i" else numpy.uint64
        return float((high.astype(wide).view(numpy.uint64) - low.astype(wide).view(numpy.uint64)).max())
    p, q = a.astype(numpy.float64), b.astype(numpy.float64)
    if not (numpy.isfinite(p).all() and numpy.isfinite(q).all()):
        return math.inf
    return float(numpy.abs(p - q).max())


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return type(a) is type(b) and bool(a == b)


def _close(a: Any, b: Any, tolerance: float) -> bool:
    return isinstance(a, float) and isinstance(b, float) and abs(a - b) <= tolerance * abs(b)
