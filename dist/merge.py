"""Several micro-batches as one larger one, for a turn in which they run together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MicroBatch = dict[str, Any]


def merge(parts: Sequence[MicroBatch]) -> MicroBatch:
    """Tensors one after another along their first dimension, lists likewise; a single part as it is."""
    if len(parts) == 1:
        return parts[0]
    merged: MicroBatch = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(first, Tensor):
            merged[name] = torch.cat(values)
        elif isinstance(first, list | tuple):
            merged[name] = [item for value in values for item in value]
        else:
            raise TypeError(f"the batch's {name!r} is a {type(first).__name__}: micro-batches merge from tensors and lists")
    return merged
