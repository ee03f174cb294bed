"""How far this rank's GPU has come in the work that the host has launched: for the watchdog (`dist/health/watchdog.py`).

The host runs ahead of a GPU, and waits for it wherever it reads a result. So a host that waits does not tell which work does
not end. An event is recorded behind the work of each stage; a thread asks whether the GPU has reached it. It is a thread of its
own, because a driver may not answer.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from phalanx.dist import heartbeat
from phalanx.dist.heartbeat import Stage

_MOST = 4096  # events that are kept: a host runs a few steps ahead


class _Event(Protocol):
    """The method of torch's CUDA event that is used here."""

    def query(self) -> bool: ...


class Unfinished(NamedTuple):
    """The first work that the GPU has not finished: of a step, counted from 1, and a stage."""

    step: int
    stage: Stage


class DeviceProgress:
    """The events that a GPU has not reached, as far as is known.

    Args:
        period: seconds between looks, which begin with the first event: a run on CPUs has no thread for them.
    """

    def __init__(self, period: float) -> None:
        self._events: deque[tuple[Unfinished, _Event]] = deque(maxlen=_MOST)
        self._period, self._begun, self._over = period, False, threading.Event()
        self.moved = time.monotonic()  # when it last reached one

    def mark(self, stage: Stage, event: _Event) -> None:
        """Adds an event that was just recorded behind the work of a stage. The main thread calls."""
        self._events.append((Unfinished(heartbeat.latest().step, stage), event))
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._look_on, name="device progress", daemon=True).start()

    def _look_on(self) -> None:
        while not self._over.wait(self._period):
            try:
                self.look()
            except RuntimeError:
                return  # the GPU has failed: the main thread meets the error too, and reports it

    def look(self) -> None:
        """Drops the events that the GPU has reached."""
        while self._events and self._events[0][1].query():
            self._events.popleft()
            self.moved = time.monotonic()

    def stop(self) -> None:
        self._over.set()

    @property
    def unfinished(self) -> Unfinished | None:
        """None for a GPU that waits for its host."""
        try:
            return self._events[0][0]
        except IndexError:
            return None


_watched: DeviceProgress | None = None


@contextmanager
def watched(period: float) -> Iterator[DeviceProgress]:
    """Within the context, events are kept and looked at every so many seconds."""
    global _watched
    _watched = progress = DeviceProgress(period)
    try:
        yield progress
    finally:
        _watched = None
        progress.stop()


def mark(stage: Stage) -> None:
    """Behind the work of a stage that was just launched on the current GPU. Costs microseconds, and waits for nothing."""
    if _watched is not None:
        import torch

        event = torch.cuda.Event()
        event.record()
        _watched.mark(stage, event)


@contextmanager
def awaited() -> Iterator[None]:
    """The stage of a host that waits for its GPU."""
    before = heartbeat.latest().stage
    heartbeat.beat("GPU wait")
    try:
        yield
    finally:
        heartbeat.beat(before)
