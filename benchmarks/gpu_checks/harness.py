"""Runs checks, each in a forked process of its own with a time limit, and writes every result at once as a line of JSON.

The process that forks has imported what checks need, and never touches a device: CUDA does not survive a fork. A check that
raises, hangs, or is killed, is reported, and the next one runs.
"""

import datetime
import faulthandler
import importlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.gpu_checks.check import Bench, Check, NotShown, Way
from benchmarks.gpu_checks.machine import ROOT
from phalanx.dist.processes.children import die_with_parent
from phalanx.dist.storage.json_lines import JsonLines, as_line, read_lines

_STACKS_S = 1.0  # for a process that hangs to say where
_REAP_S = 10.0  # for a killed process to end: one that waits for a device that hangs may never
_SAID = 3000  # characters of a failed check's output that are kept
_SLOWER = 4.0  # times that CPU cores, which others use too, may need


class Results:
    """Lines of results: printed, and added to a file if there is one, each as soon as it is known.

    Args:
        about: what every line says of where it was made.
    """

    def __init__(self, path: Path | None, about: dict[str, Any]):
        self._about, self._file = about, None
        self._before = [] if path is None or not path.exists() else list(read_lines(path))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = JsonLines(path)

    def write(self, line: dict[str, Any]) -> None:
        made = line | self._about | {"date": datetime.datetime.now().isoformat(timespec="seconds")}
        text = as_line(made).decode()
        for place in (ROOT, sys.prefix):  # results are published, and a machine's folders are nobody's business
            text = text.replace(f"{place}/", "")
        made = json.loads(text)
        sys.stdout.write(text)
        sys.stdout.flush()
        if self._file is not None:
            self._file.append(made)
            self._file.sync()

    def finished(self) -> set[str]:
        """Checks that ended as they should on this device and in this size: by an earlier command, or this one."""
        same = [line for line in self._before if all(line.get(name) == self._about[name] for name in ("on", "size"))]
        return {line["check"] for line in same if line.get("ok") is True and "check" in line}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def run(checks: Iterable[Check], way: Way, results: Results, deadline: float) -> list[str]:
    """Runs every check.

    Args:
        deadline: by the monotonic clock; checks that would begin later are not run.

    Returns:
        The names of those that did not end as they should.
    """
    wrong = []
    for check in checks:
        left = deadline - time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
        try:
            begun = time.monotonic()
            if left <= 0:
                found: dict[str, Any] = {"status": "not run", "error": "the time of the whole run was up"}
            else:
                found = _run_one(check, way, folder, left, results)
            ok = found["status"] in (check.expected, "not shown")
            results.write({"check": check.name, "ok": ok, "seconds": round(time.monotonic() - begun, 1)} | found)
            print(f"{check.name}: {found['status']}", file=sys.stderr, flush=True)
            if not ok:
                wrong.append(check.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return wrong


def _run_one(check: Check, way: Way, folder: Path, left: float, results: Results) -> dict[str, Any]:
    """How a check ended."""
    log, ours = folder / "log", folder / "files"
    ours.mkdir()
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _become(check, way, ours, log, writing)
    os.close(writing)
    limit = min(left, check.limit_s if way.size == "full" else check.limit_s * _SLOWER)
    try:
        found, code = _follow(
            process, reading, time.monotonic() + limit, lambda part: results.write({"check": check.name} | part)
        )
    finally:
        os.close(reading)
        _end(process)
    if found is None:
        said = log.read_text(errors="replace")[-_SAID:] if log.exists() else ""
        if code is None:
            return {"status": "hung", "error": f"not finished after {limit:.0f} s", "said": said}
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return {"status": "killed", "error": f"ended by {how}, without a result", "said": said}
    if found["status"] == "raised":
        found["said"] = log.read_text(errors="replace")[-_SAID:]
    return found


def _follow(
    process: int, reading: int, deadline: float, part: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any] | None, int | None]:
    """The result that a process sends, if it does, and how it ended; None if it has not ended in time.

    Its own end counts, not that of the pipe, which processes that it started have too.
    """
    received, code, asked = b"", None, False
    while True:
        ready = select.select([reading], [], [], 0.05)[0]
        chunk = os.read(reading, 1 << 16) if ready else b""
        received += chunk
        *whole, received = received.split(b"\n")
        for line in whole:
            told = json.loads(line)
            if "status" in told:
                return told, code
            part(told)
        if not chunk and code is not None:
            return None, code
        if code is None:
            ended, status = os.waitpid(process, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
        if time.monotonic() > deadline + (_STACKS_S if asked else 0.0):
            if asked or code is not None:
                return None, code
            asked = True
            os.kill(process, signal.SIGUSR1)  # its stacks go to its log


def _end(process: int) -> None:
    """Kills a process and what it has started; waits for it, but not for ever."""
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended, and nothing of it is left
    deadline = time.monotonic() + _REAP_S
    while time.monotonic() < deadline:
        try:
            if os.waitpid(process, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return  # it was waited for before
        time.sleep(0.01)
    print(f"process {process} cannot be killed: it waits for its device. It is left behind", file=sys.stderr, flush=True)


def _become(check: Check, way: Way, folder: Path, log: Path, pipe: int) -> NoReturn:
    """The forked process: runs the check, and sends its parts and its result as lines."""
    parent = os.getppid()
    sending = os.fdopen(pipe, "wb", 0)

    def send(line: dict[str, Any]) -> None:
        sending.write(as_line(line))

    try:
        os.setsid()
        die_with_parent(parent)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable(file=2)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
        os.environ.update(check.environment)
        bench = Bench(way, folder, lambda name, figures: send({"part": name, "figures": figures}))
        if way.pretended:
            from benchmarks.gpu_checks import pretending

            pretending.install()
        module, _, name = check.place.partition(":")
        held, figures = getattr(importlib.import_module(module), name)(bench)
        send({"status": "held" if held else "failed", "figures": figures})
    except NotShown as reason:
        send({"status": "not shown", "reason": str(reason)})
    except BaseException as error:
        traceback.print_exc()
        send({"status": "raised", "error": f"{type(error).__name__}: {str(error)[:_SAID]}"})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # what a library does at the end of a process may hang


def chosen(checks: Sequence[Check], only: Sequence[str] | None, smoke: bool) -> list[Check]:
    """Those asked for by name, else all; of them those that `--smoke` runs, if that is asked."""
    return [check for check in checks if (only is None or check.name in only) and (check.smoke or not smoke)]
