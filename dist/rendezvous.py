"""Where the ranks of a SLURM step meet: rank 0 opens a port of the kernel's choice and publishes it in the run directory.

No port is guessed and no host name has to resolve. A node that does not reach another is named within a minute: one that does
not even reach rank 0 leaves word beside the published address, and rank 0, which would wait for it, passes it on and ends.
No step meets another's past: the files' names hold the job, the step, the number of restarts, and the port of the srun that
launched it, and rank 0 takes the address away once all have met.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from phalanx.configs.errors import RanksApart, UserError
from phalanx.dist import network
from phalanx.dist.environment import Ranks
from phalanx.dist.files import write_json

_LOOK_S = 1.0


def meeting_place(folder: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """The file in which rank 0 of this step of srun publishes its address."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_LAUNCHER_PORT")
    return folder / f".rendezvous-{'-'.join(environment.get(name, '0') for name in names)}.json"


def slurm_store(
    ranks: Ranks, folder: Path, timeout: timedelta, own: str, environment: Mapping[str, str] = os.environ
) -> TCPStore:
    """The store over which the ranks of this step of srun find each other.

    Args:
        folder: that all nodes share.
        timeout: how long ranks may take to start.
        own: this node's address.

    Raises:
        UserError: where rank 0 does not publish its address in time.
        RanksApart: where a node cannot reach another.
    """
    published = meeting_place(folder, environment)
    if ranks.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        store = TCPStore("0.0.0.0", 0, ranks.world, is_master=True, timeout=timeout, wait_for_workers=False)
        write_json(published, {"address": own, "port": store.port, "node": _name(ranks, environment)})
    else:
        store = _reached(ranks, published, timeout, environment)
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", "1"))
    if nodes > 1 and ranks.local_rank == 0:
        look = _Reader(published).look if ranks.is_main else lambda: None
        network.all_reach_all(store, ranks.node, nodes, _name(ranks, environment), own, timeout.total_seconds(), look)
    return store


def _reached(ranks: Ranks, published: Path, timeout: timedelta, environment: Mapping[str, str]) -> TCPStore:
    """The store of rank 0."""
    deadline = time.monotonic() + timeout.total_seconds()
    while not published.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"rank {ranks.rank} waited {timeout.total_seconds():.0f} s for rank 0 to publish its address as {published}. "
                "Set runs=FOLDER to one that all nodes share."
            )
        time.sleep(0.1)
    meeting = json.loads(published.read_text())
    address, port = meeting["address"], meeting["port"]
    if reason := network.reach(address, port):
        sentence = network.apart(_name(ranks, environment), meeting["node"], address, reason)
        if ranks.local_rank == 0:  # it speaks for its node
            write_json(_word(published, ranks.node), sentence)
        raise RanksApart(f"{sentence}. {network.REMEDY}")
    return TCPStore(address, port, ranks.world, is_master=False, timeout=timeout, wait_for_workers=False)


def _word(published: Path, node: int | str) -> Path:
    """The file in which a node says that it cannot reach rank 0."""
    return published.with_suffix(f".apart-{node}")


class _Reader:
    """Rank 0's look for nodes that cannot reach it. One rank looks, once a second: the folder may be far away."""

    def __init__(self, published: Path):
        self._published, self._next = published, 0.0

    def look(self) -> None:
        """
        Raises:
            RanksApart: naming all nodes that have said so.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_S
        if not self._words():
            return
        time.sleep(_LOOK_S)  # the others will say it too, where it is rank 0's node that is cut off
        words = self._words()
        sentences = [str(json.loads(word.read_text())) for word in words]
        for file in (self._published, *words):
            file.unlink(missing_ok=True)
        raise RanksApart(f"{'; '.join(sentences)}. {network.REMEDY}")

    def _words(self) -> list[Path]:
        return sorted(self._published.parent.glob(_word(self._published, "*").name))


def _name(ranks: Ranks, environment: Mapping[str, str]) -> str:
    """This node, as SLURM calls it, and the rank that speaks for it."""
    return f"{environment.get('SLURMD_NODENAME') or socket.gethostname()} (rank {ranks.rank})"
