"""Two ranks that share one device, over gloo: NCCL refuses that."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed

from phalanx.dist.comm import process_group
from phalanx.dist.comm.process_group import World
from phalanx.dist.processes.children import die_with_parent
from phalanx.dist.processes.environment import Ranks

_TIMEOUT = timedelta(seconds=60)


def run(device: str, function: Callable[..., Any], *arguments: Any, ranks: int = 2) -> list[Any]:
    """What `function(world, *arguments)` returns on each rank. To be called before this process has used the device.

    Raises:
        RuntimeError: with what the first rank to fail says; the others are killed.
    """
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, pipes = [], []
    for rank in range(ranks):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(rank, ranks, port, device, theirs, function, arguments))
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    try:
        return _received(pipes)
    finally:
        for process in processes:
            process.kill()
            process.join(10)


def _received(pipes: list[Connection]) -> list[Any]:
    found: dict[Connection, Any] = {}
    while len(found) < len(pipes):
        for pipe in wait([pipe for pipe in pipes if pipe not in found]):
            assert isinstance(pipe, Connection)
            try:
                held, value = pipe.recv()
            except EOFError:
                held, value = False, "ended without a result"
            if not held:
                raise RuntimeError(f"rank {pipes.index(pipe)}: {value}")
            found[pipe] = value
    return [found[pipe] for pipe in pipes]


def _rank(rank: int, ranks: int, port: int, device: str, pipe: Connection, function: Callable[..., Any], given: Any) -> None:
    die_with_parent()
    try:
        pipe.send((True, function(_join(rank, ranks, port, device), *given)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        os._exit(0)  # leaving NCCL and gloo in order would wait for the other rank


def _join(rank: int, ranks: int, port: int, device: str) -> World:
    """As `phalanx.dist.comm.process_group.join`, but for the backend, and each rank has the first device."""
    numbers = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": 0 if device == "cuda" else rank, "LOCAL_WORLD_SIZE": ranks}
    os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    own = torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")
    if own.type == "cuda":
        torch.cuda.set_device(own)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks, timeout=_TIMEOUT)
    control = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    accelerator = process_group._accelerator(own)
    return World(Ranks(rank, ranks, rank, ranks), own, accelerator, control, _TIMEOUT)  # type: ignore[arg-type]
