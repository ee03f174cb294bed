"""ZeRO's storage of a parameter: this rank's range of it, in float32, within a flat tensor.

Stages 1 and 2 concatenate all parameters of an optimizer's group and cut them evenly, so that a parameter may span several
ranks; stage 3 cuts each parameter evenly. Both add padding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from phalanx.dist.checkpoint.entries import Entry, EntryKind


@dataclass(frozen=True)
class HeldRange:
    """This rank's range of a parameter.

    Attributes:
        shape: shape of the full parameter.
        start: the range's first element in the flattened parameter.
        size: its elements; 0 if other ranks hold the parameter.
        flat: DeepSpeed's tensor with the range, `[elements]`; the key of the optimizer's state, of the same shape.
        offset: of the range in `flat`.
    """

    shape: tuple[int, ...]
    start: int
    size: int
    flat: Tensor
    offset: int

    def entry(self, name: str, kind: EntryKind, flat: Tensor) -> Entry:
        """The checkpoint entry of this parameter, from `flat` or from a state of its shape."""
        held = flat.detach().narrow(0, self.offset, self.size)
        return Entry(name, kind, held, self.shape, self.start, replicated=False)


def in_groups(zero: Any, names: Mapping[nn.Parameter, str], rank: int) -> Iterator[tuple[str, HeldRange]]:
    """The ranges under stages 1 and 2.

    Args:
        zero: DeepSpeed's optimizer.
        names: the parameters' names.
    """
    for everything, mine, parameters in zip(
        zero.bit16_groups_flat, zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True
    ):
        first, last = rank * mine.numel(), (rank + 1) * mine.numel()
        for parameter in parameters:
            # By address, as round_robin_gradients reorders.
            place = (parameter.data_ptr() - everything.data_ptr()) // parameter.element_size()
            start, stop = max(place, first), min(place + parameter.numel(), last)
            size = max(0, stop - start)
            at, offset = (start - place, start - first) if size else (0, 0)
            yield names[parameter], HeldRange(tuple(parameter.shape), at, size, mine, offset)


def in_shards(zero: Any, names: Mapping[nn.Parameter, str], rank: int) -> Iterator[tuple[str, HeldRange]]:
    """The ranges under stage 3, also of frozen parameters.

    Args:
        zero: DeepSpeed's optimizer.
        names: the parameters' names.
    """
    for flat, parameters in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
        offset = 0
        for parameter in parameters:
            yield names[parameter], _shard(parameter, rank, flat, offset)
            offset += parameter.partition_numel()
    for parameter, name in names.items():
        if not parameter.requires_grad:
            yield name, _shard(parameter, rank, parameter.ds_tensor, 0)  # type: ignore[attr-defined]


def _shard(parameter: Any, rank: int, flat: Tensor, offset: int) -> HeldRange:
    start = min(rank * parameter.partition_numel(), parameter.ds_numel)
    size = min(parameter.partition_numel(), parameter.ds_numel - start)
    return HeldRange(tuple(parameter.ds_shape), start if size else 0, size, flat, offset)
