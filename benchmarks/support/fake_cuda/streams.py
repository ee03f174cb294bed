"""Streams and events. Everything is computed at once; copies to pinned host memory arrive when the host waits for them."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.support.fake_cuda.ledger import LEDGER
from benchmarks.support.fake_cuda.memory import HOST, LOCK, Clock, Lent, Record, spoil

CUDA = torch.device("cuda", 0)


class Copy:
    """A copy to the host that is under way. Until it is delivered the host's memory is garbage.

    Args:
        target: host memory.
        source: memory of the device, of which the copy keeps nothing alive.
        at_once: whether the source is read now: on the stream that computes, whatever changes it comes later.
    """

    def __init__(self, target: Tensor, source: Tensor, history: Record, at_once: bool):
        self._target, self._source, self._lost, self.done = target, Lent(source), False, False
        self._content: Tensor | None = source.clone() if at_once else None
        if not at_once:
            history.copies.append(self)
        spoil(target)

    def lose(self) -> None:
        """The source's memory is given back."""
        if self._content is None and not self.done:
            self._lost = True

    def read(self) -> None:
        """What follows may change the source."""
        if self._content is None and not self._lost:
            found = self._source.tensor()
            self._lost, self._content = found is None, None if found is None else found.clone()

    def deliver(self) -> None:
        if self.done:
            return
        self.read()
        self.done = True
        with torch.inference_mode(self._target.is_inference()):
            if self._content is not None:
                self._target.copy_(self._content)


_ALL: "weakref.WeakSet[Stream]" = weakref.WeakSet()


class Stream:
    """A queue of operations, each of which has a number."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any):
        self.device, self.priority, self.number = CUDA, priority, 0
        self.clock = Clock()
        self.queue: list[Copy] = []
        self.held: list[Tensor] = []  # by `record_stream`
        _ALL.add(self)

    def wait_event(self, event: "Event") -> None:
        """What this stream does from now on comes after what was recorded; the host waits for nothing."""
        with LOCK:
            for copy in event.copies:
                copy.read()
            self.queue += [copy for copy in event.copies if copy not in self.queue and not copy.done]
            self.clock.learn(event.known)

    def wait_stream(self, other: "Stream") -> None:
        self.wait_event(other.record_event())

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        LEDGER.count(LEDGER.syncs, "stream.synchronize")
        self.finish()

    def query(self) -> bool:
        self.finish()
        return True

    def finish(self) -> None:
        """Everything so far is done, and the host knows."""
        with LOCK:
            for copy in self.queue:
                copy.deliver()
            self.queue, self.held = [], []
            HOST.learn({**self.clock.known, self: self.number})

    def __enter__(self) -> "Stream":
        self._before = STREAMS.current
        STREAMS.current = self
        return self

    def __exit__(self, *_: object) -> None:
        STREAMS.current = self._before


class Event:
    """A place in a stream."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, **_: Any):
        self.blocking, self.copies, self.known = blocking, list[Copy](), dict[Stream, int]()
        self._asked = True

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or STREAMS.current
        with LOCK:
            self.copies = list(stream.queue)
            self.known = {**stream.clock.known, stream: stream.number}
        self._asked = False

    def _finish(self) -> None:
        with LOCK:
            for copy in self.copies:
                copy.deliver()
            HOST.learn(self.known)

    def synchronize(self) -> None:
        LEDGER.count(LEDGER.waits, "event.synchronize")
        self._finish()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or STREAMS.current).wait_event(self)

    def query(self) -> bool:
        """Not yet, when asked for the first time: then it was recorded a moment ago."""
        if self._asked:
            self._finish()
            return True
        self._asked = True
        return False

    def elapsed_time(self, end: "Event") -> float:
        return 1.0


class _Streams(threading.local):
    """The stream that each thread launches on."""

    def __init__(self) -> None:
        self.current = MAIN


MAIN = Stream()
STREAMS = _Streams()


@contextmanager
def on(stream: Stream | None) -> Iterator[None]:
    """`torch.cuda.stream`."""
    before = STREAMS.current
    STREAMS.current = stream or before
    try:
        yield
    finally:
        STREAMS.current = before


def set_current(stream: Stream) -> None:
    STREAMS.current = stream


def wait_for_device(kind: str) -> None:
    """An operation that returns when the stream it was launched on is done."""
    LEDGER.count(LEDGER.syncs, kind)
    STREAMS.current.finish()


def wait_for_all() -> None:
    """`torch.cuda.synchronize`."""
    LEDGER.count(LEDGER.syncs, "cuda.synchronize")
    for stream in list(_ALL):
        stream.finish()
