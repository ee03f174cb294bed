"""Checks before the first step that a machine has the memory and files for loader processes. No torch here."""

import os
import resource
from typing import TYPE_CHECKING

from phalanx.configs.errors import UserError

if TYPE_CHECKING:
    from phalanx.data.loading.packing import Load

_SHARED = "/dev/shm"
_FILES_OF_A_WORKER = 4  # its queue's two ends, the sentinel, and one while it starts
_SPARE_FILES = 32
_MOST_FILES = 65536
_MB = 1 << 20


def raise_file_limit() -> None:
    """Raises the soft limit of open files, within reason: batches are sent as open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def under_way(workers: int, ahead: int) -> int:
    """The most micro-batches that are loaded at a time: those each process has ready, and those of a step in use."""
    return workers * prefetch(workers, ahead) + ahead // 2


def prefetch(workers: int, ahead: int) -> int:
    """Micro-batches that each loader process has ready, so that together they are `ahead`."""
    return max(2, -(-ahead // workers))


def check(load: "Load", workers: int, ahead: int, local_ranks: int) -> None:
    """Refuses more loader processes per rank than shared memory and open files allow.

    Raises:
        UserError: with the possible number of loader processes.
    """
    if not workers:
        return
    free = _free()
    if free is not None and (needed := _needed(load, workers, ahead, local_ranks)) > free:
        fits = [n for n in range(1, workers) if _needed(load, n, ahead, local_ranks) <= free]
        fewer = max(fits, default=0)
        instead = f"data.workers={fewer}" + ("" if fewer else " (loads in the training process)")
        raise UserError(
            f"data.workers={workers}: micro-batches in transit from loader processes take {_megabytes(needed)} MB of "
            f"{_SHARED} on this node, but {_megabytes(free)} MB are free. Set {instead}, or enlarge {_SHARED} "
            "(docker run --shm-size=8g)."
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    files = open_now + _SPARE_FILES + workers * _FILES_OF_A_WORKER + load.files * under_way(workers, ahead)
    if limit != resource.RLIM_INFINITY and files > limit:
        raise UserError(
            f"data.workers={workers}: a rank needs about {files} open files for its loader processes, but may have {limit}. "
            "Set data.workers to fewer (0 loads in the training process), or raise `ulimit -n`."
        )


def _needed(load: "Load", workers: int, ahead: int, local_ranks: int) -> int:
    return load.bytes * under_way(workers, ahead) * local_ranks


def _free() -> int | None:
    """Bytes of shared memory that are free; None if unknown."""
    try:
        found = os.statvfs(_SHARED)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _megabytes(count: int) -> str:
    return f"{count / _MB:.1f}" if count < 10 * _MB else f"{count / _MB:.0f}"


def doubt(workers: int, local_ranks: int) -> str | None:
    """A warning on far more loader processes than cores."""
    cores, processes = len(os.sched_getaffinity(0)), workers * local_ranks
    if processes <= 2 * cores:
        return None
    return (
        f"data.workers={workers} makes {processes} loader processes on this node, which has {cores} "
        f"core{'s' if cores > 1 else ''}: data.workers={max(1, cores // local_ranks)} loads as fast, and needs less memory"
    )
