"""Loader processes: they die with their rank, leave signals to it, and never keep it from ending."""

import atexit
import functools
import multiprocessing.util  # noqa: F401  (its own function at exit waits for children; what is registered later runs earlier)
import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from phalanx.dist.processes import die_with_parent, kill_children
from phalanx.dist.stop import forget_in_child, held_back


class _InWorker:
    """Sets up a loader process."""

    def __init__(self, rank_process: int):
        self._rank_process = rank_process

    def __call__(self, worker: int) -> None:
        forget_in_child()
        die_with_parent(self._rank_process)


@functools.cache
def _leave_none_at_exit() -> None:
    # An error that somebody holds keeps the loader that it came from, with its processes; they ignore SIGTERM.
    atexit.register(kill_children)


def in_processes(workers: int) -> dict[str, Any]:
    """What torch's loader must be given so that `workers` processes serve it; none at 0."""
    if not workers:
        return {"num_workers": 0}
    return {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": _InWorker(os.getpid())}


def started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator; no signal meets its processes before they are set up."""
    _leave_none_at_exit()
    with held_back():
        return iter(loader)
