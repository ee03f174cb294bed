"""The tensors of a checkpoint as they are stored, or as a model loads them. No torch here."""

from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from phalanx.dist.checkpoint.layout import EMA, ITEM_SIZE, MICRO_BATCHES, Range, elements
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint, Manifest
from phalanx.dist.checkpoint.reader import Readers

_NUMPY: dict[str, Any] = {
    "F64": numpy.float64,
    "F32": numpy.float32,
    "F16": numpy.float16,
    "I64": numpy.int64,
    "I32": numpy.int32,
}


class NoAverages(LookupError):
    """Averaged weights are requested, and there are none; the message is the end of a sentence."""


@dataclass(frozen=True)
class TensorContent:
    """A tensor to be read.

    Attributes:
        stored: its name in the checkpoint.
        dtype: safetensors' name of the dtype.
        shape: shape of the result.
        rows: number of micro-batches of which it is the mean; None if it is read as it is.
    """

    stored: str
    dtype: str
    shape: tuple[int, ...]
    rows: int | None = None

    @property
    def elements(self) -> int:
        return elements(self.shape)


def as_stored(stored: Manifest) -> dict[str, TensorContent]:
    """Every tensor of a checkpoint as it is stored."""
    return {name: TensorContent(name, tensor.dtype, tensor.shape) for name, tensor in stored.tensors.items()}


def as_loaded(stored: Manifest, averaged: bool = False, with_optimizer: bool = False) -> dict[str, TensorContent]:
    """The tensors under the model's names, BatchNorm's statistics as their mean over micro-batches.

    Args:
        averaged: the averaged weights and buffers (EMA) instead of the trained ones.
        with_optimizer: also the optimizer's tensors, as `NAME@exp_avg`.

    Raises:
        NoAverages: if averaged weights are requested and there are none.
        BrokenCheckpoint: if statistics do not have one row per micro-batch.
    """
    plain = as_stored(stored)
    kinds: dict[str, dict[str, TensorContent]] = {"model": {}, "statistics": {}, "ema": {}, "optimizer": {}}
    for name, tensor in stored.tensors.items():
        kinds.setdefault(tensor.kind, {})[name] = plain[name]
    if averaged and not kinds["ema"]:
        raise NoAverages("it holds no averaged weights (EMA)")
    found = kinds["model"] | {name.removesuffix(MICRO_BATCHES): _mean(c) for name, c in kinds["statistics"].items()}
    if averaged:
        averages = kinds["ema"] | kinds.get("ema_buffers", {})
        rows = {name: content for name, content in averages.items() if name.endswith(MICRO_BATCHES + EMA)}
        found |= {name.removesuffix(EMA): content for name, content in averages.items() if name not in rows}
        found |= {name.removesuffix(MICRO_BATCHES + EMA): _mean(content) for name, content in rows.items()}
    return found | (kinds["optimizer"] if with_optimizer else {})


def _mean(rows: TensorContent) -> TensorContent:
    if not rows.shape or rows.shape[0] == 0 or rows.dtype not in _NUMPY:
        raise BrokenCheckpoint(f"{rows.stored} is {rows.dtype} {list(rows.shape)}, which is not one row per micro-batch")
    return TensorContent(rows.stored, rows.dtype, rows.shape[1:], rows.shape[0])


def mean_of_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """The mean over micro-batches in their order, with the same roundings as evaluation. Shape: [V, ...] to [...]."""
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total / total.dtype.type(len(rows)) if total.dtype.kind == "f" else rows[0]


def read(readers: Readers, content: TensorContent, wanted: Range | None = None) -> memoryview:
    """The bytes of a tensor, or of a range of its elements.

    Raises:
        BrokenCheckpoint: if they cannot be read from the shards.
    """
    part = wanted or Range(0, content.elements)
    if content.rows is None:
        return memoryview(_fill(readers, content, part))
    count = content.rows * content.elements
    stored = numpy.frombuffer(_fill(readers, content, Range(0, count)), _NUMPY[content.dtype])
    mean = numpy.ascontiguousarray(mean_of_rows(stored.reshape(content.rows, *content.shape))).reshape(-1)
    return mean[part.start : part.stop].view(numpy.uint8).data


def _fill(readers: Readers, content: TensorContent, part: Range) -> bytearray:
    target = bytearray(part.size * ITEM_SIZE[content.dtype])
    try:
        readers.fill(content.stored, part, memoryview(target))
    except OSError as error:
        raise BrokenCheckpoint(f"{content.stored} cannot be read: {error.strerror or error}") from None
    except KeyError:
        raise BrokenCheckpoint(f"{content.stored} is not in the file that the manifest names") from None
    except ValueError as error:
        raise BrokenCheckpoint(f"{content.stored} cannot be read from its file: {error}") from None
    return target
