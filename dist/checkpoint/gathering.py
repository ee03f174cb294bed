"""Ranks with very little data send it to a neighbour, which writes one file for all of them."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed

from phalanx.dist.checkpoint.entries import memory
from phalanx.dist.checkpoint.layout import Range
from phalanx.dist.checkpoint.plan import Part

if TYPE_CHECKING:
    from phalanx.dist.comm.process_group import World


def gather_parts(world: "World", mine: Sequence[Part], together: int) -> list[Part]:
    """Gathers the parts of the ranks that share a file on the first of them; none on the others. At most a few MB.

    Args:
        together: ranks per file.
    """
    rank, last = world.ranks.rank, world.ranks.world
    writer = rank // together * together
    if rank != writer:
        _send(world, writer, mine)
        return []
    found = list(mine)
    for member in range(writer + 1, min(writer + together, last)):
        found += _receive(world, member)
    return found


def _send(world: "World", writer: int, mine: Sequence[Part]) -> None:
    described = json.dumps([[p.name, p.dtype, p.shape, p.range.start, p.range.stop] for p in mine]).encode()
    content = b"".join(bytes(p.memory() if callable(p.memory) else p.memory) for p in mine)
    for tensor in (torch.tensor([len(described), len(content)]), _tensor(described), _tensor(content)):
        if tensor.numel():
            torch.distributed.send(tensor, writer, group=world.control)


def _receive(world: "World", member: int) -> list[Part]:
    lengths = torch.zeros(2, dtype=torch.int64)
    torch.distributed.recv(lengths, member, group=world.control)
    described, content = (torch.empty(int(n), dtype=torch.uint8) for n in lengths)
    for tensor in (described, content):
        if tensor.numel():
            torch.distributed.recv(tensor, member, group=world.control)
    found, offset, view = list[Part](), 0, memory(content)
    listed: list[list[Any]] = json.loads(described.numpy().tobytes())
    for name, dtype, shape, start, stop in listed:
        part = Part(name, dtype, tuple(shape), Range(start, stop), memoryview(b""))
        content_of_part = view[offset : offset + part.size]
        found.append(Part(name, dtype, tuple(shape), part.range, content_of_part))
        offset += part.size
    return found


def _tensor(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
