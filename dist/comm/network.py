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
# How long a node tries to reach another: an unreachable one is named within a minute of the ranks' start, imports included.
# The other listens already, and answers within milliseconds if the network connects them.
REACH_S = 20.0
_TRY_S = 5.0  # one attempt, in which the kernel sends three SYNs
_POLL_S = 0.2
_AT_ONCE = 64  # nodes that are tried at the same time, so that a node that reaches none does not wait for each
REMEDY = "Exclude the node (slurm.exclude), or set dist.interface to another network."


class Store(Protocol):
    """The methods of torch's TCPStore that are used here."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


def interfaces() -> dict[str, str]:
    """IPv4 addresses by interface name."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has no IPv4 address
            found[name] = socket.inet_ntoa(reply[20:24])
    return found


def address(interface: str | None, environment: Mapping[str, str]) -> str:
    """This node's address: of the interface asked for, or on the network over which srun reached it.

    Raises:
        UserError: if there is no such interface.
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
        probe.connect((launcher, 9))  # a datagram socket: nothing is sent, the kernel only chooses a route
        return str(probe.getsockname()[0])


def interface_of(own: str) -> str | None:
    """The name of the interface that has an address."""
    return next((name for name, found in interfaces().items() if found == own), None)


def reach(where: str, port: int, seconds: float = REACH_S) -> str | None:
    """Why an address cannot be reached; None if it can. Retries until the time is over."""
    deadline, reason = time.monotonic() + seconds, ""
    while (left := deadline - time.monotonic()) > 0:
        heartbeat.beat("join")  # this times out by itself and names the node: until then it must not look like a hang
        try:
            socket.create_connection((where, port), timeout=min(left, _TRY_S)).close()
            return None
        except OSError as error:
            # The last attempt may be too short to see the network's error again.
            reason = (reason or "timed out") if isinstance(error, TimeoutError) else error.strerror or str(error)
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))
    return reason


def apart(name: str, other: str, where: str, reason: str) -> str:
    """The sentence, without the remedy."""
    return f"{name} cannot reach {other} at {where}: {reason}"


def all_reach_all(
    store: Store, node: int, nodes: int, name: str, own: str, patience: float, look: Callable[[], None] = lambda: None
) -> None:
    """One rank per node calls this: each tries to reach every other, so that a broken link is named, not waited for.

    Args:
        store: the store that every node should reach.
        node, nodes: index of this node, and number of all.
        name, own: this node's name, with the rank, and its address.
        patience: seconds for which a node may be late.
        look: called repeatedly while waiting; raises if one of the others will never arrive.

    Raises:
        RanksApart: on every node, naming all pairs that do not reach each other; or the node that did not arrive.
    """
    with socket.create_server((own, 0), backlog=nodes) as listening:
        store.set(f"node/{node}", json.dumps([name, own, listening.getsockname()[1]]))
        others = [_heard(store, f"node/{other}", other, nodes, patience, look) for other in range(nodes) if other != node]
        with ThreadPoolExecutor(min(nodes, _AT_ONCE)) as threads:
            reasons = threads.map(lambda other: reach(other[1], other[2]), others)
            pairs = zip(others, reasons, strict=True)
            found = [apart(name, there, where, reason) for (there, where, _), reason in pairs if reason]
        store.set(f"reach/{node}", json.dumps(found))
        # No node stops listening before all have tried.
        said = [_heard(store, f"reach/{other}", other, nodes, patience, look) for other in range(nodes)]
    if problems := [sentence for sentences in said for sentence in sentences]:
        raise RanksApart(f"{'; '.join(problems)}. {REMEDY}")


def _heard(store: Store, key: str, node: int, nodes: int, patience: float, look: Callable[[], None]) -> Any:
    """The value that another node sets under a key of the store, waiting for it."""
    deadline = time.monotonic() + patience
    while not store.check([key]):
        look()
        if time.monotonic() > deadline:
            raise RanksApart(
                f"node {node} of the job's {nodes} (counted from 0) did not report for {patience:.0f} s. Read the logs "
                "of its ranks, or exclude it (slurm.exclude)."
            )
        time.sleep(_POLL_S)
    return json.loads(store.get(key))
