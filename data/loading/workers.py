"""Loader processes: they die with their rank, leave signals to it, and never keep it from ending.

Where one ends or cannot start, for want of memory, of room in /dev/shm, of open files, that is one sentence with its remedy.
"""

import atexit
import functools
import multiprocessing.queues
import multiprocessing.util  # its own function at exit waits for children; what is registered later runs earlier
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from torch.utils.data import DataLoader

from phalanx.data.loading.resource_errors import LoaderFailed, explained
from phalanx.dist.processes.children import die_with_parent, kill_children
from phalanx.dist.processes.stop import forget_in_child, signals_blocked


class _InWorker:
    """Sets up a loader process."""

    def __init__(self, rank_process: int):
        self._rank_process = rank_process

    def __call__(self, worker: int) -> None:
        forget_in_child()
        die_with_parent(self._rank_process)
        # Its own prints a traceback and drops the batch, for which the rank would wait for ever.
        multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_cannot_send)  # type: ignore[attr-defined]


def _cannot_send(error: Exception, batch: object) -> NoReturn:
    """A batch cannot be handed over to the rank, which notices that this process has ended."""
    reason = explained(error) or f"{type(error).__name__}: {error}"
    print(f"phalanx: a loader process cannot hand over a batch: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


@functools.cache
def _leave_none_at_exit() -> None:
    # An error that somebody holds keeps the loader that it came from, with its processes; they ignore SIGTERM.
    atexit.register(kill_children)


def in_processes(workers: int) -> dict[str, Any]:
    """What torch's loader must be given so that `workers` processes serve it; none at 0."""
    if not workers:
        return {"num_workers": 0}
    return {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": _InWorker(os.getpid())}


@contextmanager
def without_advice() -> Iterator[None]:
    """torch's own, of every rank and loader, on the number of loader processes; `room.doubt` gives it once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


def started(loader: DataLoader[Any]) -> Iterator[Any]:
    """What the loader brings; no signal meets its processes before they are set up.

    Raises:
        LoaderFailed: where they cannot start, or one of them ends.
    """
    _leave_none_at_exit()
    try:
        with signals_blocked(), without_advice():
            batches = iter(loader)
    except (OSError, RuntimeError) as error:
        raise _failed(error, loader) from error
    return _brought(batches, loader)


def _brought(batches: Iterator[Any], loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (OSError, RuntimeError) as error:
            raise _failed(error, loader) from error
        yield batch


def _failed(error: OSError | RuntimeError, loader: DataLoader[Any]) -> Exception:
    """The failure in our words; what is no want of anything stays as it is."""
    reason = explained(error) if loader.num_workers else None
    return error if reason is None else LoaderFailed(reason)
