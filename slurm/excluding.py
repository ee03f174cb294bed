"""Keeping a requeued job off a node."""

import re
import time

from phalanx.slurm import ask, cluster

_TRIES_S = 15.0  # SLURM kills the batch script 30 s after a requeue, by default
_PAUSE_S = 0.5


def exclude(job: str, node: str) -> str | None:
    """Excludes a node from a job that has just been requeued: SLURM allows it for pending jobs only.

    Returns:
        Why it could not be excluded, if so.
    """
    try:
        described = ask.described(job)
        excluded = {*ask.hosts(_named(described.get("ExcNodeList", ""))), node}
        if not _has_enough(described, excluded):
            return "the partition has too few other nodes"
    except ask.SlurmError as error:
        return str(error)
    deadline = time.monotonic() + _TRIES_S
    while True:
        try:
            ask.answer("scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(sorted(excluded))}")
            return None
        except ask.SlurmError as error:
            if time.monotonic() > deadline:
                return str(error)
        time.sleep(_PAUSE_S)


def _named(nodes: str) -> str:
    return "" if nodes == "(null)" else nodes


def _has_enough(described: dict[str, str], excluded: set[str]) -> bool:
    """Whether the job still fits: SLURM would hold it for ever."""
    partitions = set(described["Partition"].split(","))
    there = [n for n in cluster.nodes() if n.usable and n.partitions & partitions and n.name not in excluded]
    wanted = re.match(r"\d+", described["NumNodes"])
    return len(there) >= int(wanted[0] if wanted else 1)
