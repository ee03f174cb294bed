"""The network between nodes: addresses of interfaces, and whether every node reaches every other. No torch here."""

import fcntl
import json
import socket
import struct
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from phalanx.configs.errors import RanksApart, UserError
from phalanx.dist import heartbeat

_SIOCGIFADDR = 0x8915  # Linux: the address of an interface
# How long a node tries to reach another, which then is named within a minute of the ranks' start, imports included. It
# listens already, and whoever is on the network answers in milliseconds.
REACH_S = 20.0
_TRY_S = 5.0  # one attempt; the kernel calls three times in it
_POLL_S = 0.2
_AT_ONCE = 64  # nodes that are tried at the same time: one that reaches none must not take its time for each
REMEDY = "Exclude the node (slurm.exclude), or set dist.interface to another network."


class Store(Protocol):
    """What is used of torch's TCPStore."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


def interfaces() -> dict[str, str]:
    """IPv4 addresses by name of the interface."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has none
            found[name] = socket.inet_ntoa(reply[20:24])
    return found


def address(interface: str | None, environment: Mapping[str, str]) -> str:
    """This node's address: of the interface asked for, or on the network over which srun reached it.

    Raises:
        UserError: where there is no such interface.
    """
    if interface is not None:
        there = interfaces()
        if interface not in there:
            raise UserError(
                f"dist.interface={interface}: {socket.gethostname()} has no such interface with an IPv4 address. "
                f"Set one of: {', '.join(sorted(there))}."
            )
        return there[interface]
    launcher = environment.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((launcher, 9))  # a datagram socket: nothing is sent, the kernel only chooses the way
        return str(probe.getsockname()[0])


def interface_of(own: str) -> str | None:
    """The name of the interface that has an address."""
    return next((name for name, found in interfaces().items() if found == own), None)


def reach(where: str, port: int, seconds: float = REACH_S) -> str | None:
    """Why an address cannot be reached; None if it can. Tries again until the time is over."""
    deadline, reason = time.monotonic() + seconds, ""
    while (left := deadline - time.monotonic()) > 0:
        heartbeat.beat("join")  # this ends by itself, and names the node: it must not look like a rank that hangs before
        try:
            socket.create_connection((where, port), timeout=min(left, _TRY_S)).close()
            return None
        except OSError as error:
            # The last attempt may be cut too short to hear again what the network said.
            reason = (reason or "timed out") if isinstance(error, TimeoutError) else error.strerror or str(error)
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))
    return reason


def apart(name: str, other: str, where: str, reason: str) -> str:
    """The sentence, without the remedy."""
    return f"{name} cannot reach {other} at {where}: {reason}"


def all_reach_all(
    store: Store, node: int, nodes: int, name: str, own: str, patience: float, look: Callable[[], None] = lambda: None
) -> None:
    """One rank a node calls this: each tries to reach every other, so that a broken link is named and not waited for.

    Args:
        store: that every node should reach.
        node, nodes: number of this node, and of all.
        name, own: its name, with that of the rank, and its address.
        patience: seconds that another node may take to start.
        look: called again and again while others are waited for; raises where one of them will never come.

    Raises:
        RanksApart: on every node, naming all pairs that do not reach each other; or the node that does not come.
    """
    with socket.create_server((own, 0), backlog=nodes) as listening:
        store.set(f"node/{node}", json.dumps([name, own, listening.getsockname()[1]]))
        others = [_heard(store, f"node/{other}", other, nodes, patience, look) for other in range(nodes) if other != node]
        with ThreadPoolExecutor(min(nodes, _AT_ONCE)) as threads:
            reasons = threads.map(lambda other: reach(other[1], other[2]), others)
            pairs = zip(others, reasons, strict=True)
            found = [apart(name, there, where, reason) for (there, where, _), reason in pairs if reason]
        store.set(f"reach/{node}", json.dumps(found))
        # Nobody stops listening before everybody has tried.
        said = [_heard(store, f"reach/{other}", other, nodes, patience, look) for other in range(nodes)]
    if problems := [sentence for sentences in said for sentence in sentences]:
        raise RanksApart(f"{'; '.join(problems)}. {REMEDY}")


def _heard(store: Store, key: str, node: int, nodes: int, patience: float, look: Callable[[], None]) -> Any:
    """What another node says under a key of the store, once it has."""
    deadline = time.monotonic() + patience
    while not store.check([key]):
        look()
        if time.monotonic() > deadline:
            raise RanksApart(
                f"node {node} of the job's {nodes} (counted from 0) was not heard of for {patience:.0f} s. Look into the logs "
                "of its ranks, or exclude it (slurm.exclude)."
            )
        time.sleep(_POLL_S)
    return json.loads(store.get(key))
