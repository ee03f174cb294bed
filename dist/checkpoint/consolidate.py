"""One plain safetensors file out of a checkpoint's shards, for whoever wants just the weights. No torch here."""

import os
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from phalanx.dist.checkpoint import manifest, shard_file
from phalanx.dist.checkpoint.layout import ITEM_SIZE, MICRO_BATCHES, Range
from phalanx.dist.checkpoint.manifest import StoredTensor
from phalanx.dist.checkpoint.reader import Readers
from phalanx.dist.files import fsync_directory

_NUMPY: dict[str, Any] = {"F64": numpy.float64, "F32": numpy.float32, "I64": numpy.int64}


def mean_of_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """The mean over micro-batches in their order, as evaluation uses it: the same roundings. Shape: [V, ...] to [...]."""
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total / total.dtype.type(len(rows)) if total.dtype.kind == "f" else rows[0]


def _read(readers: Readers, name: str, stored: StoredTensor) -> bytearray:
    content = bytearray(stored.elements * ITEM_SIZE[stored.dtype])
    readers.fill(name, Range(0, stored.elements), memoryview(content))
    return content


def _segment(readers: Readers, name: str, stored: StoredTensor) -> shard_file.Segment:
    content = _read(readers, name, stored)
    if stored.kind != "statistics":
        return shard_file.Segment(name, stored.dtype, stored.shape, memoryview(content))
    rows = numpy.frombuffer(content, dtype=_NUMPY[stored.dtype]).reshape(stored.shape)
    mean = numpy.ascontiguousarray(mean_of_rows(rows))
    plain = name.removesuffix(MICRO_BATCHES)
    return shard_file.Segment(plain, stored.dtype, stored.shape[1:], mean.reshape(-1).view(numpy.uint8).data)


def consolidate(checkpoint: Path, output: Path, with_optimizer: bool = False) -> int:
    """Writes parameters and buffers under their plain names, BatchNorm's statistics as their mean over micro-batches.

    Args:
        with_optimizer: the optimizer's tensors too, as `NAME@exp_avg`.

    Returns:
        The number of tensors written.

    Raises:
        BrokenCheckpoint: where the checkpoint is not whole.
        OSError: where the output cannot be written; an older file of that name is then as it was.
    """
    stored = manifest.read(checkpoint)
    chosen = {n: t for n, t in stored.tensors.items() if t.kind != "optimizer" or with_optimizer}
    aside = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with Readers(checkpoint, stored) as readers:
            segments = [_segment(readers, name, tensor) for name, tensor in chosen.items()]
            shard_file.write(aside, segments, {"format": "pt", "step": str(stored.step), "experiment": stored.experiment})
        aside.rename(output)
        fsync_directory(output.parent)
    finally:
        aside.unlink(missing_ok=True)
    return len(chosen)
