"""Operations for which the host waits: their result's shape, or a number for Python, depends on what the device computes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_ALWAYS = {"nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "bincount", "nms", "equal"}
_INDEX_PUT = {"index_put_", "index_put", "_index_put_impl_"}
_MASKS = (torch.bool, torch.uint8)


def reason(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Why the host waits for an operation on the device; None if it does not."""
    if name in _ALWAYS:
        return name
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return name
    if name == "index" and _by_mask(args[1]):
        return "index by a mask"
    # A number is written through one mask without looking for its places.
    if name in _INDEX_PUT and _by_mask(args[1]) and not (args[2].numel() == 1 and sum(i is not None for i in args[1]) == 1):
        return "index_put by a mask"
    return None


def _by_mask(indices: Sequence[Any]) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in _MASKS for index in indices)
