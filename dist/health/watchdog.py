"""The watchdog ends a run in which no rank makes progress, and reports which rank hangs, where, and its stack.

A rank that waits for ever (for its data, a file system, a lock) makes all others wait in a collective. So a thread on each
rank watches its main thread's heartbeat and publishes it. If no rank makes progress for `dist.hang_s`, the lowest rank that
answers finds the cause (`dist/health/hang.py`), every rank writes its stacks, and all end with 75, so that the run is retried.
"""

import faulthandler
import os
import socket
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import phalanx
from phalanx.configs.errors import ExitCode, UserError
from phalanx.dist import device_progress, heartbeat
from phalanx.dist.checkpoint.directory import steps
from phalanx.dist.comm import flight_recorder
from phalanx.dist.device_progress import DeviceProgress
from phalanx.dist.health import failure_report
from phalanx.dist.health.hang import HangReport, Heard, Noticeboard, Sign, judge
from phalanx.dist.processes import rank_status, scratch
from phalanx.dist.processes.children import born, kill_children, kill_rank
from phalanx.dist.processes.environment import Ranks, start_of_run
from phalanx.dist.storage.run_directory import Events, RunDirectory

_STOPPED_S = 30.0  # a process that overslept by this much was stopped
_LAST_WORDS_S = 20.0  # for files and messages before the exit; the file system may be what hangs
_OTHERS_S = 5.0  # for the other ranks to write theirs
_PACKAGE = str(Path(phalanx.__file__).parent) + os.sep
_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = ("site-packages", "dist-packages")


@contextmanager
def watched(run: RunDirectory, ranks: Ranks, hang_s: float) -> Iterator[None]:
    """Within the context, a hang of `hang_s` seconds ends the process with 75; 0 disables it."""
    heartbeat.beat("join", 0)
    if not hang_s:
        yield
        return
    # A twentieth of the time: a rank that is silent for half of it counts as not answering.
    period = min(10.0, max(0.2, hang_s / 20))
    with device_progress.watched(period) as device:
        watchdog = Watchdog(run, ranks, hang_s, period, device)
        watchdog.start()
        try:
            yield
        finally:
            watchdog.stop()


class Watchdog:
    """The thread that watches this rank's main thread, and the other ranks once that makes no progress."""

    def __init__(self, run: RunDirectory, ranks: Ranks, hang_s: float, period: float, device: DeviceProgress):
        self._run, self._ranks, self._hang_s, self._period, self._device = run, ranks, hang_s, period, device
        self._attempt = start_of_run(os.environ)
        self._board = Noticeboard(run.path / ".heartbeat", ranks.rank, self._attempt)
        self._identity = (socket.gethostname(), os.getpid(), born(os.getpid()))
        self._since = time.monotonic()
        self._number = 0
        self._begun = self._published = False
        self._heard: dict[int, tuple[Sign | None, float]] = {}
        self._over = threading.Event()
        self._deciding = threading.Lock()
        # A daemon, so that a hung file system does not keep the process alive.
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops watching, as the work is done or has failed. Never returns if the run is being ended as hung."""
        self._deciding.acquire()
        self._over.set()
        self._thread.join(_OTHERS_S)  # it removes its file

    def _watch(self) -> None:
        pause, before = self._period, time.monotonic()
        while not self._over.wait(pause):
            now = time.monotonic()
            if now - before > pause + min(_STOPPED_S, self._hang_s / 2):
                self._since = now  # all ranks may have been stopped
                self._heard.clear()
            age = now - max(heartbeat.latest().time, self._device.moved, self._since)
            hang = self._look(age, now)
            if hang is not None:
                self._end(hang)
            pause = min(self._period, 1.0) if age > 0.9 * self._hang_s else self._period
            before = time.monotonic()
        if self._published:
            self._board.clear()

    def _look(self, age: float, now: float) -> HangReport | None:
        """Publishes this rank's last progress, `age` seconds ago, and looks at the others if that is long ago."""
        sign = self._sign(age)
        if self._ranks.world == 1:
            return judge(0, {0: Heard(sign, 0.0)}, self._hang_s)
        suspicious = age > 3 * self._period
        try:
            # A refused run, or one whose folder was moved away, must not get a folder again; and until the ranks have joined
            # and claimed the folder, it may be another trainer's.
            self._begun = self._begun or (heartbeat.latest().stage != "join" and self._run.exists())
            if self._run.exists() if self._begun else suspicious:
                self._publish(sign)
        except (OSError, UserError):
            return None  # whoever cannot write cannot blame others for silence
        if not suspicious:
            self._heard.clear()
            return None
        return self._board.report() or self._judgement(sign, now)

    def _publish(self, sign: Sign) -> None:
        if not self._published:
            self._board.clear()  # an earlier attempt's files
            self._published = True
        self._board.publish(sign)

    def _judgement(self, sign: Sign, now: float) -> HangReport | None:
        """The report of this rank if it is the lowest that answers: all read one rank's file, and one rank reads all."""
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
        stands = age > self._period
        place, waits = _place(_main_frame()) if stands else ("", False)
        sign = Sign(self._attempt, self._number, step, stage, age, place, waits, noted, *self._identity)
        gpu = self._device.unfinished if stands else None
        return sign if gpu is None else replace(sign, gpu_step=gpu.step, gpu_stage=gpu.stage)

    # -- the end --------------------------------------------------------------------------------------------------------

    def _end(self, hang: HangReport) -> None:
        """Ends this process, unless its work has ended meanwhile."""
        if not self._deciding.acquire(blocking=False):
            return
        last_words = threading.Thread(target=self._say, args=(hang,), name="last words", daemon=True)
        last_words.start()
        last_words.join(_LAST_WORDS_S)
        try:
            rank_status.ended(self._ranks.rank, ExitCode.STOPPED_EARLY)
            kill_children()
            scratch.remove()
        finally:
            os._exit(ExitCode.STOPPED_EARLY)

    def _say(self, hang: HangReport) -> None:
        """Writes the reports, and waits for the others'. The judge also reports for ranks that do not answer."""
        own, world = self._ranks.rank, self._ranks.world
        if own != hang.judge:
            self._report(hang, own)
            self._write_collectives()
            self._agree_to_end(hang, [hang.judge])
            return
        if world > 1:
            self._board.announce(hang)
        for rank in (own, *hang.silent):
            self._report(hang, rank)
        self._write_collectives()
        self._wait_for([rank for rank in range(world) if rank != own and rank not in hang.silent], _OTHERS_S)
        seconds = round(hang.seconds, 1)
        details = {"ranks": hang.hung, "silent": hang.silent, "stage": hang.stage, "places": hang.places}
        details |= {"gpu": hang.gpu} if hang.gpu else {}
        with suppress(OSError):  # the run directory may be gone
            Events(self._run).write("hang", max(hang.step, 0), **details, seconds=seconds)
        print(f"phalanx: {self._sentence(hang)}", file=sys.stderr, flush=True)
        for rank in hang.silent:
            rank_status.ended(rank, ExitCode.STOPPED_EARLY)
        self._agree_to_end(hang, [])

    def _write_collectives(self) -> None:
        """Writes what the flight recorder has. It asks the driver, which may not answer, and may keep the GIL meanwhile."""
        rank_status.ended(self._ranks.rank, ExitCode.STOPPED_EARLY)
        faulthandler.dump_traceback_later(_LAST_WORDS_S, exit=True)  # ends the process even then
        try:
            for name, content in flight_recorder.recorded().items():
                (self._run.errors / f"collectives-{self._ranks.rank}-{name}.json").write_bytes(content)
        except (OSError, RuntimeError) as problem:
            print(f"phalanx: the last collectives could not be written: {problem}", file=sys.stderr, flush=True)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _agree_to_end(self, hang: HangReport, others: Sequence[int]) -> None:
        """Publishes that this rank is ready to end, and waits for others: the first exit breaks all connections."""
        if self._ranks.world == 1:
            return
        self._board.publish(self._sign(0.0, noted=True))
        self._wait_for(others, 2 * _OTHERS_S)
        for rank in hang.silent:
            sign = self._board.sign_of(rank)
            if sign is not None and sign.host == self._identity[0]:
                kill_rank(sign.process, sign.born, self._attempt)  # SIGTERM does not end a stopped process

    def _wait_for(self, others: Sequence[int], seconds: float) -> None:
        """Waits until other ranks have written their reports."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not all((s := self._board.sign_of(rank)) and s.noted for rank in others):
            time.sleep(0.05)

    def _sentence(self, hang: HangReport) -> str:
        reports = ", ".join(str(self._run.errors / f"rank-{rank}.json") for rank in hang.hung)
        saved = steps(self._run.checkpoints)
        outlook = f"resumes it from step {saved[-1]}" if saved else "starts it again, as there is no checkpoint yet"
        found = f"{hang.sentence(self._ranks.world)}; see {reports}."
        return f"{found} The run ends with 75; `phalanx resume {self._run.path}` {outlook}"

    def _report(self, hang: HangReport, rank: int) -> None:
        """Writes errors/rank-N.json, of this rank or of one that does not answer. Only a hung rank's has the reason."""
        is_hung, lines, host = rank in hang.hung, _stacks(), self._identity[0]
        if rank != self._ranks.rank:
            sign = self._board.sign_of(rank)
            host = sign.host if sign else "an unknown node"
            where = f"Process {sign.process} on {host}" if sign else "The rank"
            lines = [f"{where} does not answer; its stack is not known.\n"]
        sentence = hang.sentence(self._ranks.world)
        message = sentence if is_hung else f"waited: {sentence}"
        failure_report.write_failure(self._run, rank, "Hung", message, lines, echo=not is_hung, host=host)


def _is_library(filename: str) -> bool:
    if filename.startswith(_PACKAGE):
        return False
    return filename.startswith(("<", _STANDARD_LIBRARY)) or any(f"{os.sep}{name}{os.sep}" in filename for name in _INSTALLED)


def _place(frame: FrameType | None) -> tuple[str, bool]:
    """The innermost line outside of libraries, as `my_task.py:12, losses`, and whether it waits for other ranks."""
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
