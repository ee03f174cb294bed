"""Rendezvous: a store that rank 0 opens for this run's ranks only, and in which every rank reports its arrival.

On one node it listens on the loopback interface. Under SLURM rank 0 opens a port of the kernel's choice on the given network
and publishes it in the run directory, in a file that only the run's owner can read, with a secret prefix of all
keys. No port is guessed and no host name has to resolve. A node that does not reach another is named within a minute: one that
does not even reach rank 0 writes a file beside the published address, and rank 0 reports it and ends. Steps do not read each
other's files: their names hold the job, the step, the number of restarts, and the port of the srun that launched it, and
rank 0 removes the address once all have arrived.

Under other launchers, on several nodes, the address is the launcher's, and anyone who reaches it can read and set keys.
"""

import errno
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from phalanx.configs.errors import RanksApart, UserError
from phalanx.dist.comm import network
from phalanx.dist.comm.waiting import Waiting, listed
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.storage.durable_files import write_atomically

_LOOK_S = 1.0
_NOBODY = 65534  # root's files on NFS
LOOPBACK = "127.0.0.1"


def open_store(address: str, port: int, world: int | None, timeout: timedelta, multi_tenant: bool = False) -> TCPStore:
    """A store that listens at one address only; by default torch's listens on all interfaces.

    Args:
        port: 0 lets the kernel choose.

    Raises:
        UserError: if the port is taken.
    """
    try:
        listening = socket.create_server((address, port), backlog=4096)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UserError(f"rank 0 cannot listen at {address}:{port}: the port is taken. Set MASTER_PORT to another.") from None
    port = listening.getsockname()[1]
    return TCPStore(
        address,
        port,
        world,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=multi_tenant,
        master_listen_fd=listening.detach(),
    )


def _client(address: str, port: int, ranks: Ranks, timeout: timedelta) -> TCPStore:
    return TCPStore(address, port, ranks.world, is_master=False, timeout=timeout, wait_for_workers=False)


def all_arrived(store: Store, ranks: Ranks, timeout: timedelta, look: Callable[[], None] = lambda: None) -> None:
    """Returns once every rank has arrived here.

    Args:
        look: called repeatedly while rank 0 waits; raises if one of the others will never arrive.

    Raises:
        RanksApart, Stopped: see `Waiting`.
    """
    store.set(f"here/{ranks.rank}", socket.gethostname())
    if not ranks.is_main:
        waiting = Waiting(ranks, lambda: "the ranks that rank 0 waits for", timeout.total_seconds(), speaks=False)
        while not store.check(["all here"]):
            waiting.pause()
        return

    def missing() -> list[int]:
        return [rank for rank in range(ranks.world) if not store.check([f"here/{rank}"])]

    waiting = Waiting(ranks, lambda: listed(missing()), timeout.total_seconds())
    while not store.check([f"here/{rank}" for rank in range(ranks.world)]):
        look()
        waiting.pause()
    store.set("all here", "")


# -- one node, or a launcher's address -------------------------------------------------------------------------------------


def launched_store(ranks: Ranks, timeout: timedelta, environment: Mapping[str, str] = os.environ) -> Store:
    """The store of ranks started by torchrun, accelerate launch or by hand, once all of them have arrived.

    Raises:
        RanksApart, Stopped: see `Waiting`.
        UserError: if rank 0 cannot listen at MASTER_PORT.
    """
    one_node = ranks.local_world == ranks.world
    where, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    store: Store
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        restart = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"phalanx/{restart}", _client(where, port, ranks, timeout))
        if one_node:
            store = _beside(store, ranks, timeout)
    elif ranks.is_main:
        own = LOOPBACK if one_node else _own_address(where)
        store = open_store(own, port, ranks.world, timeout) if own else _everywhere(where, port, ranks, timeout)
    else:
        address = LOOPBACK if one_node else where
        waiting = Waiting(ranks, lambda: f"rank 0 at {address}:{port}, where nobody listens yet", timeout.total_seconds())
        while network.reach(address, port, seconds=0.5) is not None:
            waiting.pause()
        store = _client(address, port, ranks, timeout)
    all_arrived(store, ranks, timeout)
    return store


def _beside(launchers: Store, ranks: Ranks, timeout: timedelta) -> Store:
    """A store on the loopback interface; the launcher's store, which other machines may reach, only holds its port."""
    if ranks.is_main:
        store = open_store(LOOPBACK, 0, ranks.world, timeout)
        launchers.set("port", str(store.port))
        return store
    waiting = Waiting(ranks, lambda: "rank 0", timeout.total_seconds())
    while not launchers.check(["port"]):
        waiting.pause()
    return _client(LOOPBACK, int(launchers.get("port")), ranks, timeout)


def _own_address(name: str) -> str | None:
    """The single address at which the others look for rank 0, if it is one of this node's; None behind address translation."""
    try:
        address = socket.gethostbyname(name)
    except OSError:
        return None
    return address if address in network.interfaces().values() and not address.startswith("127.") else None


def _everywhere(name: str, port: int, ranks: Ranks, timeout: timedelta) -> TCPStore:
    return TCPStore(name, port, ranks.world, is_master=True, timeout=timeout, wait_for_workers=False)


# -- SLURM ------------------------------------------------------------------------------------------------------------------


def meeting_place(folder: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """The file in which rank 0 of this step of srun publishes its address."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_LAUNCHER_PORT")
    return folder / f".rendezvous-{'-'.join(environment.get(name, '0') for name in names)}.json"


def slurm_store(
    ranks: Ranks, folder: Path, timeout: timedelta, own: str, environment: Mapping[str, str] = os.environ
) -> tuple[Store, str, int]:
    """The store in which the ranks of this srun step meet, and the address at which it listens.

    Args:
        folder: a folder that all nodes share.
        timeout: for ranks to start.
        own: this node's address.

    Raises:
        RanksApart: if a node cannot reach another, or a rank does not arrive in time.
        Stopped: if this rank was asked to stop before all had arrived.
    """
    published = meeting_place(folder, environment)
    if ranks.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open_store(own, 0, ranks.world, timeout)
        node, word = _name(ranks, environment), secrets.token_hex(16)
        _publish(published, {"address": own, "port": opened.port, "node": node, "word": word})
    else:
        opened, word = _reached(ranks, published, timeout, environment)
    store = PrefixStore(word, opened)
    look = _Reader(published).look if ranks.is_main else lambda: None
    all_arrived(store, ranks, timeout, look)
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", "1"))
    if nodes > 1 and ranks.local_rank == 0:
        network.all_reach_all(store, ranks.node, nodes, _name(ranks, environment), own, timeout.total_seconds(), look)
    return store, opened.host, opened.port


def _publish(path: Path, content: Mapping[str, str | int]) -> None:
    """Writes a file that only its owner can read, following no link."""
    write_atomically(path, json.dumps(content), mode=0o600)


def _published(path: Path) -> dict[str, str | int] | None:
    """What rank 0 has written; None until then. A file that others own, can read or can write is not trusted."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), _NOBODY):
                return None
            found: dict[str, str | int] = json.loads(file.read())
            return found
    except OSError:
        return None


def _reached(ranks: Ranks, published: Path, timeout: timedelta, environment: Mapping[str, str]) -> tuple[TCPStore, str]:
    """The store of rank 0, and the prefix of its keys."""
    remedy = f"which has not written {published} yet, in a folder that all nodes must share (runs=FOLDER)"
    waiting = Waiting(ranks, lambda: f"rank 0, {remedy}", timeout.total_seconds())
    while (meeting := _published(published)) is None:
        waiting.pause()
    address, port = str(meeting["address"]), int(meeting["port"])
    if reason := network.reach(address, port):
        sentence = network.apart(_name(ranks, environment), str(meeting["node"]), address, reason)
        if ranks.local_rank == 0:  # one rank reports for its node
            _publish(_word(published, ranks.node), {"sentence": sentence})
        raise RanksApart(f"{sentence}. {network.REMEDY}")
    return _client(address, port, ranks, timeout), str(meeting["word"])


def _word(published: Path, node: int | str) -> Path:
    """The file in which a node reports that it cannot reach rank 0."""
    return published.with_suffix(f".apart-{node}")


class _Reader:
    """Reads the reports of nodes that cannot reach rank 0. Only rank 0 reads, once per second: the folder may be on NFS."""

    def __init__(self, published: Path):
        self._published, self._next = published, 0.0

    def look(self) -> None:
        """
        Raises:
            RanksApart: naming all nodes that have reported.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_S
        if not self._words():
            return
        time.sleep(_LOOK_S)  # the others report too, if it is rank 0's node that is cut off
        words = self._words()
        sentences = [str((_published(word) or {}).get("sentence")) for word in words]
        for file in (self._published, *words):
            file.unlink(missing_ok=True)
        raise RanksApart(f"{'; '.join(sentences)}. {network.REMEDY}")

    def _words(self) -> list[Path]:
        name = _word(self._published, "").name
        return sorted(p for p in self._published.parent.glob(f"{name}*") if p.name.removeprefix(name).isdigit())


def _name(ranks: Ranks, environment: Mapping[str, str]) -> str:
    """This node's name in SLURM, and the rank that reports for it."""
    return f"{environment.get('SLURMD_NODENAME') or socket.gethostname()} (rank {ranks.rank})"
