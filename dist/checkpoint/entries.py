"""The content of a checkpoint, seen from one rank: named flat tensors, and this rank's shards of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from phalanx.dist.checkpoint.layout import Range

DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
FROM_NAME = {name: dtype for dtype, name in DTYPES.items()}

EntryKind = Literal["model", "optimizer", "ema", "ema_buffers", "statistics"]


@dataclass(frozen=True)
class Entry:
    """A tensor of the run, or this rank's shard of it.

    Attributes:
        name: the parameter's or buffer's name; `NAME@exp_avg` for optimizer state, `NAME@micro_batches` for statistics.
        kind: model, optimizer, ema, ema_buffers or statistics.
        tensor: this rank's elements, contiguous, any shape.
        shape: shape of the full tensor.
        start: index of this rank's first element in the flattened full tensor.
        replicated: whether every rank holds the full tensor; then the ranks share the writing.
        writes: whether this rank writes its shard; one of several ranks with the same shard does.
        changes_in_forward: whether a forward may change it, as BatchNorm's statistics; all else changes only in the update.
    """

    name: str
    kind: EntryKind
    tensor: Tensor
    shape: tuple[int, ...]
    start: int = 0
    replicated: bool = True
    writes: bool = True
    changes_in_forward: bool = False

    @property
    def held(self) -> Range:
        return Range(self.start, self.start + self.tensor.numel())


def full_entry(name: str, kind: EntryKind, tensor: Tensor) -> Entry:
    """An entry for a tensor that every rank holds."""
    return Entry(name, kind, tensor, tuple(tensor.shape))


def entry(name: str, kind: EntryKind, tensor: Tensor) -> Entry:
    """An entry for a tensor that every rank holds, or for this rank's shard of one, along its first dimension."""
    if not hasattr(tensor, "device_mesh"):
        return full_entry(name, kind, tensor)
    from torch.distributed.tensor import DTensor  # imported here, as it takes most of a second
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    assert isinstance(tensor, DTensor)
    mesh = tensor.device_mesh
    _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, tensor.placements)
    with torch.no_grad():  # so that to_local returns the shard itself
        local = tensor.to_local()
    start = offset[0] * (tensor.numel() // tensor.shape[0]) if local.numel() else 0
    first_copy = all(mesh.get_local_rank(dim) == 0 for dim, p in enumerate(tensor.placements) if p.is_replicate())
    return Entry(name, kind, local, tuple(tensor.shape), start, replicated=False, writes=first_copy)


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, in place."""
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    # One element of a larger tensor counts as contiguous whatever its stride, but cannot be viewed as bytes.
    flat = tensor.detach().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


def on_host(tensor: Tensor) -> Tensor:
    """The tensor in contiguous CPU memory; itself if it is already."""
    return tensor.detach().cpu().contiguous()


def sizes(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """(elements, bytes per element) of entries, for `layout.cut`."""
    return [(entry.tensor.numel(), entry.tensor.element_size()) for entry in entries]
