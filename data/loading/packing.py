"""How a micro-batch travels from a loader process: few files, few copies.

A tensor is sent as an open file, about a millisecond each. So small tensors are sent by value, and a list of tensors as one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

_BY_VALUE_BYTES = 64 << 10


class Packed(NamedTuple):
    """One tensor, or a list of them, as concatenated bytes.

    Attributes:
        content: the bytes, in shared memory or by value.
        dtypes, shapes: each tensor's.
        is_list: whether it was a list.
    """

    content: "Tensor | NDArray[Any]"
    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[tuple[int, ...], ...]
    is_list: bool

    def pin_memory(self) -> "Packed":
        """For torch's loader: the bytes in pinned memory, from which a GPU copies while the host goes on."""
        content = self.content if isinstance(self.content, Tensor) else torch.from_numpy(self.content)
        return self._replace(content=content.pin_memory())


class Load(NamedTuple):
    """What a micro-batch uses in transit: bytes of shared memory, and open files."""

    bytes: int
    files: int


def shared(value: Any) -> Any:
    """Copies a value's tensors to shared memory: if that is full it fails here, not in transit.

    Raises:
        RuntimeError: if shared memory is full.
    """
    for tensor in _travelling(value):
        tensor.share_memory_()
    return value


def load_of(value: Any) -> Load:
    """The load of a value that a loader process sends."""
    tensors = list(_travelling(value))
    return Load(sum(tensor.nbytes for tensor in tensors), len(tensors))


def _travelling(value: Any) -> Iterator[Tensor]:
    """The tensors in a value that are sent as open files."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _travelling(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _travelling(item)


def pack(value: Any) -> Any:
    """A small tensor or a list of tensors, packed, those in dictionaries too; anything else unchanged."""
    if isinstance(value, dict):
        return {name: pack(item) for name, item in value.items()}
    if isinstance(value, Tensor):
        return value if value.nbytes > _BY_VALUE_BYTES else _packed([value], is_list=False)
    if isinstance(value, list) and value and all(isinstance(item, Tensor) for item in value):
        return _packed(value, is_list=True)
    return value


def _packed(tensors: Sequence[Tensor], is_list: bool) -> Packed:
    flat = [_bytes(tensor) for tensor in tensors]
    content = flat[0] if len(flat) == 1 else torch.cat(flat)
    sent = content.numpy() if content.nbytes <= _BY_VALUE_BYTES else content
    return Packed(sent, tuple(t.dtype for t in tensors), tuple(tuple(t.shape) for t in tensors), is_list)


def _bytes(tensor: Tensor) -> Tensor:
    """Uint8 `[bytes]`. An empty tensor's strides are arbitrary, and numpy's allow no view."""
    if not tensor.numel():
        return torch.empty(0, dtype=torch.uint8)
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def unpack(value: Any) -> Any:
    """The inverse of `pack`."""
    if isinstance(value, dict):
        return {name: unpack(item) for name, item in value.items()}
    if not isinstance(value, Packed):
        return value
    content = value.content if isinstance(value.content, Tensor) else torch.from_numpy(value.content)
    tensors, start = [], 0
    for dtype, shape in zip(value.dtypes, value.shapes, strict=True):
        length = dtype.itemsize * torch.Size(shape).numel()
        part = content[start : start + length]
        if not length:
            part = torch.empty(0, dtype=torch.uint8)  # numpy's strides of an empty array allow no view
        elif start % dtype.itemsize:
            part = part.clone()  # a view as another type must be aligned to its size
        tensors.append(part.view(dtype).reshape(shape))
        start += length
    return tensors if value.is_list else tensors[0]
