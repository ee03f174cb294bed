"""A run in which no rank moves any more ends within seconds, and says which rank it was, where, and with which stack.

A rank that waits for ever (for its data, a file system, a lock) makes all others wait in a collective. So a thread on each
rank watches its main thread's heartbeat and publishes it. Where nobody has moved for `dist.hang_s`, the lowest rank that
answers judges (`dist/health/hang.py`), every rank writes down its stacks, and all end with 75: a hang is worth another try.
"""

import os
import socket
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import phalanx
from phalanx.configs.errors import ExitCode, UserError
from phalanx.dist import heartbeat
from phalanx.dist.checkpoint.directory import steps
from phalanx.dist.health import failure_report
from phalanx.dist.health.hang import HangReport, Heard, Noticeboard, Sign, judge
from phalanx.dist.processes import rank_status, scratch
from phalanx.dist.processes.children import born, kill_children, kill_rank
from phalanx.dist.processes.environment import Ranks, start_of_run
from phalanx.dist.storage.run_directory import Events, RunDirectory

_STOPPED_S = 30.0  # a process that sleeps so much longer than it wanted was not running at all
_LAST_WORDS_S = 20.0  # for files and messages before the end; the file system may be what hangs
_OTHERS_S = 5.0  # for the other ranks to write down theirs
_PACKAGE = str(Path(phalanx.__file__).parent) + os.sep
_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = ("site-packages", "dist-packages")


@contextmanager
def watched(run: RunDirectory, ranks: Ranks, hang_s: float) -> Iterator[None]:
    """While this lasts, a hang of `hang_s` seconds ends the process with 75; 0 seconds: never."""
    heartbeat.beat("join", 0)
    if not hang_s:
        yield
        return
    watchdog = Watchdog(run, ranks, hang_s)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


class Watchdog:
    """The thread that watches this rank's main thread, and the other ranks once that stands still."""

    def __init__(self, run: RunDirectory, ranks: Ranks, hang_s: float):
        self._run, self._ranks, self._hang_s = run, ranks, hang_s
        # A twentieth of the time, so that a rank that misses half of it does not answer.
        self._period = min(10.0, max(0.2, hang_s / 20))
        self._attempt = start_of_run(os.environ)
        self._board = Noticeboard(run.path / ".heartbeat", ranks.rank, self._attempt)
        self._identity = (socket.gethostname(), os.getpid(), born(os.getpid()))
        self._since = time.monotonic()
        self._number = 0
        self._begun = self._published = False
        self._heard: dict[int, tuple[Sign | None, float]] = {}
        self._over = threading.Event()
        self._deciding = threading.Lock()
        # A daemon, so that a file system that hangs does not keep the process.
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The work is done, or has failed. Never returns where the run is being ended as hung: then that is what counts."""
        self._deciding.acquire()
        self._over.set()
        self._thread.join(_OTHERS_S)  # it takes its file away

    def _watch(self) -> None:
        pause, before = self._period, time.monotonic()
        while not self._over.wait(pause):
            now = time.monotonic()
            if now - before > pause + min(_STOPPED_S, self._hang_s / 2):
                self._since = now  # everybody may have been stopped
                self._heard.clear()
            age = now - max(heartbeat.latest().time, self._since)
            verdict = self._look(age, now)
            if verdict is not None:
                self._end(verdict)
            pause = min(self._period, 1.0) if age > 0.9 * self._hang_s else self._period
            before = time.monotonic()
        if self._published:
            self._board.clear()

    def _look(self, age: float, now: float) -> HangReport | None:
        """Publishes that this rank moved `age` seconds ago, and looks at the others if it should have moved by now."""
        sign = self._sign(age)
        if self._ranks.world == 1:
            return judge(0, {0: Heard(sign, 0.0)}, self._hang_s)
        suspicious = age > 3 * self._period
        try:
            # A run that is refused as it starts leaves no folder behind, nor one that was moved away under way; and until the
            # ranks have joined and claimed it, it may be another trainer's.
            self._begun = self._begun or (heartbeat.latest().stage != "join" and self._run.exists())
            if self._run.exists() if self._begun else suspicious:
                self._publish(sign)
        except (OSError, UserError):
            return None  # who cannot write must not wonder that others are silent
        if not suspicious:
            self._heard.clear()
            return None
        return self._board.verdict() or self._judgement(sign, now)

    def _publish(self, sign: Sign) -> None:
        if not self._published:
            self._board.clear()  # what an earlier attempt left
            self._published = True
        self._board.publish(sign)

    def _judgement(self, sign: Sign, now: float) -> HangReport | None:
        """What this rank finds if it is the lowest that answers: so all read one rank's file, and one reads all."""
        own, world = self._ranks.rank, self._ranks.world
        if any(self._listen(rank, now).silence < self._hang_s / 4 for rank in range(own)):
            return None
        others = {rank: self._listen(rank, now) for rank in range(world) if rank != own}
        return judge(own, {own: Heard(sign, 0.0), **others}, self._hang_s)

    def _listen(self, rank: int, now: float) -> Heard:
        sign = self._board.sign_of(rank)
        if rank not in self._heard or sign != self._heard[rank][0]:
            self._heard[rank] = (sign, now)
        return Heard(sign, now - self._heard[rank][1])

    def _sign(self, age: float, noted: bool = False) -> Sign:
        self._number += 1
        step, stage, _ = heartbeat.latest()
        place, waits = _place(_main_frame()) if age > self._period else ("", False)
        return Sign(self._attempt, self._number, step, stage, age, place, waits, noted, *self._identity)

    # -- the end --------------------------------------------------------------------------------------------------------

    def _end(self, verdict: HangReport) -> None:
        """Ends this process, unless its work has ended meanwhile."""
        if not self._deciding.acquire(blocking=False):
            return
        last_words = threading.Thread(target=self._say, args=(verdict,), name="last words", daemon=True)
        last_words.start()
        last_words.join(_LAST_WORDS_S)
        try:
            rank_status.ended(self._ranks.rank, ExitCode.STOPPED_EARLY)
            kill_children()
            scratch.remove()
        finally:
            os._exit(ExitCode.STOPPED_EARLY)

    def _say(self, verdict: HangReport) -> None:
        """Writes down what is known, and waits until the others have. The judge speaks for those that don't answer."""
        own, world = self._ranks.rank, self._ranks.world
        if own != verdict.judge:
            self._report(verdict, own)
            self._agree_to_end(verdict, [verdict.judge])
            return
        if world > 1:
            self._board.announce(verdict)
        for rank in (own, *verdict.silent):
            self._report(verdict, rank)
        self._wait_for([rank for rank in range(world) if rank != own and rank not in verdict.silent], _OTHERS_S)
        seconds = round(verdict.seconds, 1)
        details = {"ranks": verdict.hung, "silent": verdict.silent, "stage": verdict.stage, "places": verdict.places}
        with suppress(OSError):  # the run directory may be what is gone
            Events(self._run).write("hang", max(verdict.step, 0), **details, seconds=seconds)
        print(f"phalanx: {self._sentence(verdict)}", file=sys.stderr, flush=True)
        for rank in verdict.silent:
            rank_status.ended(rank, ExitCode.STOPPED_EARLY)
        self._agree_to_end(verdict, [])

    def _agree_to_end(self, verdict: HangReport, others: Sequence[int]) -> None:
        """Says that this rank is ready to end, and waits for others: the first end breaks everybody's connections."""
        if self._ranks.world == 1:
            return
        self._board.publish(self._sign(0.0, noted=True))
        self._wait_for(others, 2 * _OTHERS_S)
        for rank in verdict.silent:
            sign = self._board.sign_of(rank)
            if sign is not None and sign.host == self._identity[0]:
                kill_rank(sign.process, sign.born, self._attempt)  # SIGTERM would not end one that is stopped

    def _wait_for(self, others: Sequence[int], seconds: float) -> None:
        """Until other ranks have written down that the run hangs."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all((s := self._board.sign_of(rank)) and s.noted for rank in others):
            time.sleep(0.05)

    def _sentence(self, verdict: HangReport) -> str:
        reports = ", ".join(str(self._run.errors / f"rank-{rank}.json") for rank in verdict.hung)
        saved = steps(self._run.checkpoints)
        going_on = f"goes on from step {saved[-1]}" if saved else "begins anew, as there is no checkpoint yet"
        said = f"{verdict.sentence(self._ranks.world)}; see {reports}."
        return f"{said} The run ends with 75; `phalanx resume {self._run.path}` {going_on}"

    def _report(self, verdict: HangReport, rank: int) -> None:
        """errors/rank-N.json, of this rank or of one that does not answer. Only a hung rank's tells the reason."""
        is_hung, lines, host = rank in verdict.hung, _stacks(), self._identity[0]
        if rank != self._ranks.rank:
            sign = self._board.sign_of(rank)
            host = sign.host if sign else "a node that was not heard of"
            where = f"Process {sign.process} on {host}" if sign else "The rank"
            lines = [f"{where} does not answer; its stack is not known.\n"]
        sentence = verdict.sentence(self._ranks.world)
        message = sentence if is_hung else f"waited: {sentence}"
        failure_report.write_words(self._run, rank, "Hung", message, lines, echo=not is_hung, host=host)


def _is_library(filename: str) -> bool:
    if filename.startswith(_PACKAGE):
        return False
    return filename.startswith(("<", _STANDARD_LIBRARY)) or any(f"{os.sep}{name}{os.sep}" in filename for name in _INSTALLED)


def _place(frame: FrameType | None) -> tuple[str, bool]:
    """The innermost line that is no library's, as `my_task.py:12, losses`, and whether it waits for other ranks."""
    innermost, waits = frame, False
    while frame is not None and _is_library(frame.f_code.co_filename):
        waits = waits or f"{os.sep}torch{os.sep}distributed{os.sep}" in frame.f_code.co_filename
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return "", waits
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}, {frame.f_code.co_name}", waits


def _main_frame() -> FrameType | None:
    return sys._current_frames().get(threading.main_thread().ident or 0)


def _stacks() -> list[str]:
    """The stacks of all threads, the main thread's first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    found = []
    for number, frame in sorted(sys._current_frames().items(), key=lambda item: item[0] != main):
        found += [f"Thread {names.get(number, number)} (most recent call last):\n", *traceback.format_stack(frame)]
    return found
