"""Loader processes: they die with their rank, leave signals to it, and never block its end.

If one ends or cannot start for lack of memory, space in /dev/shm or open files, the error is one sentence with its remedy.
"""

import atexit
import errno
import functools
import multiprocessing.queues
import multiprocessing.util  # its exit handler waits for children; handlers registered later run earlier
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
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
        # The default prints a traceback and drops the batch, for which the rank would wait for ever.
        multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_cannot_send)  # type: ignore[attr-defined]
        sys.excepthook = _cannot_hand_over


def _cannot_send(error: Exception, batch: object) -> NoReturn:
    """Ends this process if a batch cannot be sent to the rank, which notices its end."""
    reason = explained(error) or f"{type(error).__name__}: {error}"
    sys.stderr.write(f"phalanx: a loader process cannot send a batch: {reason}\n")  # at once: others may write too
    sys.stderr.flush()
    os._exit(1)


def _cannot_hand_over(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ends this process if Python's thread that hands over the files of a batch lacks files of its own to answer the rank.

    By default that thread prints the error and tries again without end, while the rank waits for its answer.
    """
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
        _cannot_send(error, None)
    sys.__excepthook__(kind, error, trace)


@functools.cache
def _leave_none_at_exit() -> None:
    # An exception that is still referenced keeps its loader alive, with its processes; they ignore SIGTERM.
    atexit.register(kill_children)


def in_processes(workers: int) -> dict[str, Any]:
    """Arguments of torch's loader for a number of processes; none at 0."""
    if not workers:
        return {"num_workers": 0}
    return {"num_workers": workers, "multiprocessing_context": "fork", "worker_init_fn": _InWorker(os.getpid())}


@contextmanager
def without_advice() -> Iterator[None]:
    """Suppresses torch's advice on the number of loader processes; `worker_memory.doubt` gives it once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


def started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; signals are blocked until its processes are set up.

    Raises:
        LoaderFailed: if they cannot start, or one of them ends.
    """
    _leave_none_at_exit()
    try:
        with signals_blocked(), without_advice():
            batches = iter(loader)
    except (OSError, RuntimeError) as error:
        _fail(error, loader)
    return _brought(batches, loader)


def _brought(batches: Iterator[Any], loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        try:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (OSError, RuntimeError, EOFError) as error:
                _fail(error, loader)
        except RuntimeError as error:  # of torch's handler of SIGCHLD, if a second process ends while the first is explained
            _fail(error, loader)
        yield batch


def _fail(error: OSError | RuntimeError | EOFError, loader: DataLoader[Any]) -> NoReturn:
    """Raises the failure with an explanation; an error that has none as it is."""
    reason = explained(error) if loader.num_workers else None
    if reason is None:
        raise error
    raise LoaderFailed(reason) from error
