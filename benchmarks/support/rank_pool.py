"""A pool of real processes that become the ranks of one world after another: imports are paid once a session.

They are forked from a process that has paid for them and has one thread, so that new ones are there at once.
"""

import faulthandler
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.support.forking import ONE_THREAD

TIMEOUT_S = 60
RENEW_AFTER = 20  # worlds: gloo and the stores leave threads behind, and a thousand of them slow everything down


def _free_port() -> int:
    """A port below those that the kernel gives to connections, of which one could take it before rank 0 listens there."""
    while True:
        port = random.SystemRandom().randrange(10000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _serve(connection: Connection) -> None:
    """A pooled process: joins a world, does its part, leaves; until told to end."""
    from phalanx.dist.processes.children import die_with_parent

    die_with_parent()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # a rank that hangs is asked where
    os.environ["ACCELERATE_USE_CPU"] = "true"
    while (order := connection.recv()) is not None:
        rank, world, port, timeout_s, function, arguments = order
        try:
            connection.send(("done", _as_rank(rank, world, port, timeout_s, function, arguments)))
        except BaseException:
            connection.send(("failed", traceback.format_exc()))


def _as_rank(
    rank: int, world: int, port: int, timeout_s: float, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Any:
    from pathlib import Path

    from accelerate.state import AcceleratorState

    from phalanx.configs.sections.dist import DistConfig
    from phalanx.dist.comm.process_group import join, leave
    from phalanx.dist.processes.environment import find

    names = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    joined = join(find(), DistConfig(timeout_s=timeout_s), Path("unused"), threads=1)
    try:
        return function(joined, *arguments)
    finally:
        _forget_deepspeed()
        _forget_meshes()
        leave()
        AcceleratorState._reset_state(reset_partial_state=True)


def _forget_deepspeed() -> None:
    """DeepSpeed keeps its groups, and numbers parameters and modules from the start of the process on."""
    if "deepspeed" not in sys.modules:
        return
    import deepspeed
    from deepspeed.runtime.zero.parameter_offload import DeepSpeedZeRoOffload

    if deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()
    deepspeed.zero.Init.param_id = 0
    DeepSpeedZeRoOffload._register_deepspeed_module.__defaults__[0][0] = 0


def _forget_meshes() -> None:
    """DTensor keeps results of its planning, with a mesh in each: the groups of the next world have other names."""
    if "torch.distributed.tensor" in sys.modules:
        from torch.distributed.tensor import debug

        debug._clear_sharding_prop_cache()


class Pool:
    """`pool.run(world, function, *arguments)` calls `function(world, *arguments)` on so many ranks.

    Args:
        timeout_s: of a call; ranks wait half of it for one another.
        renew_after: worlds after which the processes are new ones.
    """

    def __init__(self, size: int, timeout_s: float = TIMEOUT_S, renew_after: int = RENEW_AFTER):
        self._size, self._timeout_s, self._renew_after, self._worlds = size, timeout_s, renew_after, 0
        self._ranks = self._start()

    def _start(self) -> list[tuple[Any, Connection]]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.support.preloaded"])
        own = os.environ.copy()
        os.environ |= ONE_THREAD
        forkserver.ensure_running()
        for name in ONE_THREAD:
            del os.environ[name]
        os.environ |= own
        ranks = []
        for _ in range(self._size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            ranks.append((process, ours))
        return ranks

    def _renew(self) -> None:
        for process, _ in self._ranks:
            process.kill()
        self._ranks = self._start()

    def run(self, world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What each rank returned, in the order of ranks.

        Raises:
            AssertionError: with the traceback of the first rank that failed, or where one hangs.
        """
        self._worlds += 1
        if self._worlds > 1 and self._worlds % self._renew_after == 0:
            self.close()
            self._ranks = self._start()
        try:
            return self._run(world, function, *arguments)
        except (EOFError, OSError):
            self._ranks[0][0].join(1)  # how one ended is known a little later than that it did
            ended = {rank: process.exitcode for rank, (process, _) in enumerate(self._ranks) if process.exitcode is not None}
            self._renew()
            told = ", ".join(f"rank {rank} with {code}" for rank, code in ended.items())
            raise AssertionError(f"ended in {function.__name__}: {told or 'a rank'}") from None

    def _run(self, world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        port = _free_port()
        for rank, (_, connection) in enumerate(self._ranks[:world]):
            connection.send((rank, world, port, self._timeout_s / 2, function, arguments))
        results, hanging = [], []
        deadline = time.monotonic() + self._timeout_s
        for rank, (_, connection) in enumerate(self._ranks[:world]):
            if connection.poll(max(0.0, deadline - time.monotonic())):
                results.append(connection.recv())
            else:
                hanging.append(rank)
                results.append(("failed", f"hangs in {function.__name__}; its stack is in stderr"))
        if hanging:
            self._say_where(hanging)
            self._renew()  # or a late result would be taken for the next world's
        failures = [f"rank {rank}:\n{text}" for rank, (how, text) in enumerate(results) if how == "failed"]
        assert not failures, "\n".join(failures)
        return [result for _, result in results]

    def _say_where(self, ranks: Sequence[int]) -> None:
        for rank in ranks:
            os.kill(self._ranks[rank][0].pid or os.getpid(), signal.SIGUSR1)
            time.sleep(0.5)

    def close(self) -> None:
        for process, connection in self._ranks:
            with suppress(BrokenPipeError):  # it has ended already
                connection.send(None)
            process.join(5)
            if process.is_alive():
                process.kill()


@contextmanager
def pooled(given: Pool | None, size: int, **settings: Any) -> Iterator[Pool]:
    """A pool that is there already, or one that is closed at the end."""
    pool = given or Pool(size, **settings)
    try:
        yield pool
    finally:
        if given is None:
            pool.close()
