"""The process that answers: it has paid for the imports, and forks another one to ask each door.

It is told cases through a pipe, a line each, and answers a line each. A forked process that dies, or does not answer in time,
is a finding, and the next case gets a new one. Run as `python -m tests.fuzz.worker`.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.law import Answer, bound_memory, judge

WALL_S = 120.0  # a bound for hangs: processor time is what counts as slow
ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """Answers cases, in a process of its own."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="fuzz-")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "WANDB_"))}
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ACCELERATE_CONFIG_FILE": "", "TMPDIR": self._folder}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker"],
            cwd=ROOT,
            env=kept | threads,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, case: Case) -> Answer:
        """What becomes of a case."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(case.dumps() + "\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        assert told, "the process that answers has ended"
        return Answer(**json.loads(told))

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.read()  # it ends when the process does
        self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Forked:
    """A process that asks doors until one of them kills it."""

    def __init__(self) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(ours[1])
            os.close(theirs[0])
            _answer_all(ours[0], theirs[1])
        os.close(ours[0])
        os.close(theirs[1])
        self._orders, self._answers = os.fdopen(ours[1], "w"), os.fdopen(theirs[0])

    def ask(self, line: str) -> str | None:
        """The answer; None where the process had to be ended, or has."""
        self._orders.write(line)
        self._orders.flush()
        ready, _, _ = select.select([self._answers], [], [], WALL_S)
        return (self._answers.readline() or None) if ready else None

    def end(self) -> str:
        """How it ended, in words."""
        ended, status = os.waitpid(self.process, os.WNOHANG)
        if not ended:
            time.sleep(0.2)  # the pipe is closed a moment before
            ended, status = os.waitpid(self.process, os.WNOHANG)
        if not ended:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            return f"no answer within {WALL_S:.0f} s"
        code = os.waitstatus_to_exitcode(status)
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def close(self) -> None:
        self._orders.close()
        self._answers.close()


def _answer_all(orders: int, answers: int) -> None:
    from tests.fuzz.targets import FAULTY, TARGETS

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.environ["PHALANX_FUZZ_STDERR"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    bound_memory()
    try:
        with os.fdopen(orders) as lines, os.fdopen(answers, "w") as out:
            for number, line in enumerate(lines):
                case, folder = Case.loads(line), Path(tempfile.gettempdir(), f"{os.getpid()}-{number}")
                folder.mkdir()
                os.chdir(folder)  # messages name files as short as they are
                case.lay_out(folder)
                target = (TARGETS | FAULTY)[case.target]
                answer = judge(target.door, target.refusals(), case, Path())
                os.chdir("/")
                shutil.rmtree(folder, ignore_errors=True)
                out.write(json.dumps(answer.to_json()) + "\n")
                out.flush()
    finally:
        os._exit(0)


def _serve() -> None:
    import torch

    from tests.fuzz.targets import TARGETS

    torch.set_num_threads(1)
    for target in TARGETS.values():
        target.prepare()
    said = Path(tempfile.gettempdir(), "said")
    os.environ["PHALANX_FUZZ_STDERR"] = str(said)
    forked: _Forked | None = None
    for line in sys.stdin:
        forked = forked or _Forked()
        told = forked.ask(line)
        if told is None:
            how = forked.end()
            words = said.read_text(errors="replace")[-1_500:] if said.exists() else ""
            told = json.dumps(Answer("finding", how, words).to_json()) + "\n"
            forked.close()
            forked = None
        sys.stdout.write(told)
        sys.stdout.flush()
    if forked is not None:
        forked.close()
        os.waitpid(forked.process, 0)
    os._exit(0)  # Python would clear away all that torch has made


if __name__ == "__main__":
    _serve()
