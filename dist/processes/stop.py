"""Stopping a run without losing anything: a signal sets a flag, the ranks agree on a step, all save. No torch here.

A Python signal handler never runs while its rank is in a collective. So the handlers do nothing; the interpreter writes
each signal's number to a socket (`signal.set_wakeup_fd`), and a thread reads it.
"""

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from phalanx.configs.errors import ExitCode, UserError
from phalanx.dist import heartbeat
from phalanx.dist.processes import environment, rank_status, scratch

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def answered() -> tuple[signal.Signals, ...]:
    """The signals that are handled here: not SIGHUP if it was ignored at the start, as by nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return tuple(number for number in SIGNALS if not (ignored and number is signal.SIGHUP))


class StopRequest:
    """Whether this process was asked to stop, and by which signal. Made once, first of all, in the main thread.

    Attributes:
        unsaved: returns the number of finished steps that are in no checkpoint; set once training has begun.
    """

    def __init__(self) -> None:
        global _current
        self.signal: signal.Signals | None = None
        self.unsaved: Callable[[], int] | None = None
        self._interrupts = 0
        self._nothing_begun, self._lock = False, threading.Lock()
        reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)
        for number in answered():
            signal.signal(number, _only_wake_up)
        signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        answer_from_now_on()
        threading.Thread(target=self._listen, args=(reading,), name="stop-request", daemon=True).start()
        _current = self

    @property
    def asked(self) -> bool:
        return self.signal is not None

    def _listen(self, reading: socket.socket) -> None:
        while received := reading.recv(1):
            if received[0] not in SIGNALS:
                continue
            number = signal.Signals(received[0])
            self._interrupts += number is signal.SIGINT
            if self._interrupts >= 2:
                self._end()
            with self._lock:
                if self._nothing_begun:
                    self._leave(number)
            is_answered = rank_status.was_interrupt_answered() or time.monotonic() - _asked_at < _ASKED_S
            if number is signal.SIGINT and _speaks() and not is_answered:
                _say(self._answer())
            self.signal = self.signal or number  # last, since a short run may end before this thread has its next turn

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within it a signal ends this process at once, with exit code 75: the run has not begun.

        Importing takes seconds, or minutes from a busy file system. A launcher whose first rank has stopped kills those that
        have not ended half a minute later.
        """
        with self._lock:
            self._nothing_begun = True
            if self.signal is not None:
                self._leave(self.signal)
        try:
            yield
        finally:
            with self._lock:
                self._nothing_begun = False

    def _leave(self, number: signal.Signals) -> None:
        if _speaks() or not rank_status.is_open():
            _say(f"stopped by {number.name} before the run had started. Nothing is lost")
        self._exit(ExitCode.STOPPED_EARLY)

    def _answer(self) -> str:
        """The message on an interrupt: what it does, and what a second one would do."""
        if self.unsaved is None:
            return "interrupted: stopping as soon as the run has started. A second Ctrl-C stops at once; nothing is lost yet"
        steps = self.unsaved()
        cost = f"loses {steps} step{'s' if steps > 1 else ''}" if steps else "loses only the step under way"
        after = "evaluation" if heartbeat.latest().stage in ("evaluation", "metrics") else "step"
        return f"interrupted: stopping after this {after} and saving. A second Ctrl-C stops at once and {cost}"

    def _end(self) -> None:
        if _speaks():
            _say("interrupted twice: stopping at once, without a checkpoint")
        self._exit(ExitCode.FAILED)

    def _exit(self, code: ExitCode) -> None:
        try:
            rank_status.ended(_rank(), code)
            scratch.remove()
        finally:
            os._exit(code)


_current: StopRequest | None = None
_asked_at = -math.inf
_ASKED_S = 1.0


def asked() -> signal.Signals | None:
    """The signal that asked this process to stop, if one did.

    For code that waits without end: to be called repeatedly; the caller prints the answer to an interrupt.
    """
    global _asked_at
    _asked_at = time.monotonic()
    return None if _current is None else _current.signal


def _rank() -> int:
    try:
        return environment.find().rank
    except UserError:
        return 0


def _speaks() -> bool:
    """Whether this rank answers for all."""
    return _rank() == 0


def _say(sentence: str) -> None:
    print(f"phalanx: {sentence}.", file=sys.stderr, flush=True)


def _only_wake_up(number: int, frame: object) -> None:
    """Needed as a handler, for the interpreter to write the signal's number to the socket."""


def answer_from_now_on() -> None:
    """Unblocks the signals: the caller has installed handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Signals wait until the context ends, or until handlers are installed; none is lost, and none kills.

    Used while a command starts, and while processes are forked: a child that still has our socket would answer for us.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield  # code that installs handlers meanwhile unblocks them with answer_from_now_on
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """For a rank that exits with its own code: after the first exit srun and torchrun send SIGTERM to the others.

    Python restores default handlers as it shuts down, and the signal would replace the code; ignoring persists.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def forget_in_child() -> None:
    """For a forked helper process: torchrun and SLURM signal every process of a rank, but only the rank handles signals.

    The helper ends when the rank no longer needs it, or with the rank (`processes.die_with_parent`).
    """
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
