"""The network between nodes: addresses of interfaces, and whether every node reaches every other. No torch here."""

import fcntl
import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Protocol

from phalanx.configs.errors import RanksApart, UserError

_SIOCGIFADDR = 0x8915  # Linux: the address of an interface
REACH_S = 45.0  # how long a node tries to reach another, which then is named within a minute


class Store(Protocol):
    """What is used of torch's TCPStore."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...


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
        try:
            socket.create_connection((where, port), timeout=left).close()
            return None
        except OSError as error:
            reason = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
        time.sleep(0.5)
    return reason


def all_reach_all(store: Store, node: int, nodes: int, name: str, own: str) -> None:
    """One rank a node calls this: each tries to reach every other, so that a broken link is named and not waited for.

    Args:
        store: which every node has reached.
        node, nodes: number of this node, and of all.
        name, own: its name and address.

    Raises:
        RanksApart: on every node, naming all pairs that do not reach each other.
    """
    with socket.create_server((own, 0), backlog=nodes) as listening:
        store.set(f"node/{node}", json.dumps([name, own, listening.getsockname()[1]]))
        others = {other: json.loads(store.get(f"node/{other}")) for other in range(nodes) if other != node}
        found = []
        for other_name, other_address, port in others.values():
            if reason := reach(other_address, port):
                found.append(f"{name} cannot reach {other_name} at {other_address}: {reason}")
        store.set(f"reach/{node}", json.dumps(found))
        # Nobody stops listening before everybody has tried.
        problems = [sentence for other in range(nodes) for sentence in json.loads(store.get(f"reach/{other}"))]
    if problems:
        raise RanksApart(f"{'; '.join(problems)}. Exclude the node (slurm.exclude), or set dist.interface to another network.")
