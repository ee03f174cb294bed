"""Small messages between ranks, as JSON: nothing is pickled, not even on the wire."""

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
import torch.distributed

from phalanx.configs.errors import UserError
from phalanx.dist.comm.process_group import World

T = TypeVar("T")

# torch 2.14 has another name for it; torch 2.11 has only the older one.
all_gather_flat = getattr(torch.distributed, "all_gather_single", None) or torch.distributed.all_gather_into_tensor


# A message begins with its length, and this many of its bytes travel with it: most need no second collective.
_HEAD_BYTES = 1024
_LENGTH_BYTES = 8
# Up to this many ranks are sent to one by one: a broadcast uses a thread of its own on every rank, and with more ranks than
# cores each of those waits to be scheduled.
_DIRECT_RANKS = 16


def _packed(value: Any) -> torch.Tensor:
    """Length and JSON, at least `_HEAD_BYTES` long."""
    text = json.dumps(value).encode()
    message = bytearray(max(_HEAD_BYTES, _LENGTH_BYTES + len(text)))
    message[:_LENGTH_BYTES] = len(text).to_bytes(_LENGTH_BYTES, "little")
    message[_LENGTH_BYTES : _LENGTH_BYTES + len(text)] = text
    return torch.frombuffer(message, dtype=torch.uint8)


def _packed_size(head: torch.Tensor) -> int:
    return max(_HEAD_BYTES, _LENGTH_BYTES + int.from_bytes(head[:_LENGTH_BYTES].numpy().tobytes(), "little"))


def _unpacked(message: torch.Tensor) -> Any:
    content = message.numpy().tobytes()
    return json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")])


def gather_json(world: World, value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks, on every rank."""
    if world.ranks.world == 1:
        return [json.loads(json.dumps(value))]
    message = _packed(value)
    heads = [torch.empty(_HEAD_BYTES, dtype=torch.uint8) for _ in range(world.ranks.world)]
    torch.distributed.all_gather(heads, message[:_HEAD_BYTES], group=world.control)
    rest = max(map(_packed_size, heads)) - _HEAD_BYTES
    if not rest:
        return [_unpacked(head) for head in heads]
    padded = torch.zeros(rest, dtype=torch.uint8)
    padded[: message.numel() - _HEAD_BYTES] = message[_HEAD_BYTES:]
    tails = [torch.empty(rest, dtype=torch.uint8) for _ in heads]
    torch.distributed.all_gather(tails, padded, group=world.control)
    return [_unpacked(torch.cat(both)) for both in zip(heads, tails, strict=True)]


def broadcast_object(world: World, value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if world.ranks.world == 1:
        return json.loads(json.dumps(value))
    message = _packed(value if world.ranks.is_main else None)
    head = message[:_HEAD_BYTES]
    _spread(world, head)
    rest = _packed_size(head) - _HEAD_BYTES
    if not rest:
        return _unpacked(head)
    tail = message[_HEAD_BYTES:] if world.ranks.is_main else torch.empty(rest, dtype=torch.uint8)
    _spread(world, tail)
    return _unpacked(torch.cat([head, tail]))


def _spread(world: World, message: torch.Tensor) -> None:
    """Copies rank 0's bytes to every rank."""
    if world.ranks.world > _DIRECT_RANKS:
        torch.distributed.broadcast(message, 0, group=world.control)
    elif world.ranks.is_main:
        sent = [torch.distributed.isend(message, rank, group=world.control) for rank in range(1, world.ranks.world)]
        for each in sent:
            assert each is not None, "rank 0 belongs to the group"
            each.wait()
    else:
        torch.distributed.recv(message, 0, group=world.control)


def gather_to_main(world: World, value: Any) -> Iterator[Any]:
    """Every rank's value, in the order of ranks, on rank 0; nothing on the others. Every rank must exhaust it.

    For long values: rank 0 holds one at a time.
    """
    if world.ranks.is_main:
        yield value
    else:
        message = _packed(value)
        torch.distributed.send(message[:_HEAD_BYTES], 0, group=world.control)
        if message.numel() > _HEAD_BYTES:
            torch.distributed.send(message[_HEAD_BYTES:], 0, group=world.control)
        return
    for rank in range(1, world.ranks.world):
        head = torch.empty(_HEAD_BYTES, dtype=torch.uint8)
        torch.distributed.recv(head, rank, group=world.control)
        tail = torch.empty(_packed_size(head) - _HEAD_BYTES, dtype=torch.uint8)
        if tail.numel():
            torch.distributed.recv(tail, rank, group=world.control)
        yield _unpacked(torch.cat([head, tail]))


def gather_rows(world: World, rows: torch.Tensor) -> torch.Tensor:
    """The rows of all ranks' CPU tensors `[n, ...]`, whose `n` may differ, in the order of ranks, on every rank."""
    if world.ranks.world == 1:
        return rows
    counts = gather_json(world, len(rows))
    padded = torch.zeros(max(counts), *rows.shape[1:], dtype=rows.dtype)
    padded[: len(rows)] = rows
    received = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(received, padded, group=world.control)
    return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)])


def sum_exactly(world: World, table: torch.Tensor) -> torch.Tensor:
    """The exact sum over ranks of a CPU tensor of integers, or of one whose every entry is nonzero on one rank at most."""
    if world.ranks.world > 1:
        torch.distributed.all_reduce(table, group=world.control)
    return table


def barrier(world: World) -> None:
    """Returns when every rank has arrived here."""
    if world.ranks.world > 1:
        torch.distributed.barrier(group=world.control)


def run_and_agree(world: World, action: Callable[[], T]) -> T:
    """Runs an action on every rank that may fail with a `UserError`; all learn of the first failure, and none is left waiting.

    Raises:
        UserError: on every rank, if it failed on any.
    """
    result, problem = None, None
    try:
        result = action()
    except UserError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
    problems = gather_json(world, problem)
    failed = [rank for rank, found in enumerate(problems) if found is not None]
    if failed:
        prefix = f"rank {failed[0]}: " if len(failed) < world.ranks.world and failed[0] > 0 else ""
        raise UserError(prefix + problems[failed[0]], shared=True)
    return cast(T, result)


def run_on_main(world: World, action: Callable[[], object]) -> None:
    """Runs an action on rank 0; the others wait, and fail with it.

    Raises:
        UserError: on every rank, if it failed for a reason that the user can fix.
    """
    run_and_agree(world, action if world.ranks.is_main else lambda: None)
