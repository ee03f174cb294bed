"""Phalanx in processes forked from one that has paid for the imports: what a command does, without seconds of starting.

A real process each, with its own environment, folder and output, that calls what the command calls. Tests of launching and
stopping start their commands anew instead. Run as a script, this is `phalanx` for a shell, done by the same process.
"""

import gc
import importlib
import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # numpy's threads would be there before a fork
_COMMAND, _RANK = "phalanx.launch.main:main", "phalanx.launch.train:main"
_RANKS_OF = {"train": _RANK, "resume": _RANK, "evaluate": "phalanx.launch.evaluate:main"}
SCRIPT = "benchmarks.support.forking:run_script"
_GRACE_S = 5.0  # how long other ranks may run once one has failed, as under torchrun
_START_S = 60.0
_COMMAND_S = 150.0


def rank_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun would tell a rank on a machine without a GPU."""
    told = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    if count == 1:
        return told
    numbers = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return told | {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


def become(work: Callable[[], int], folder: Path, environment: Mapping[str, str], output: Path, errors: Path) -> NoReturn:
    """A forked process does something else than its parent, in a session of its own, and ends with what `work` returns."""
    from phalanx.dist.processes.children import die_with_parent

    code, parent = 1, os.getppid()
    try:
        os.setsid()
        die_with_parent(parent)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in ((1, output), (2, errors)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fork(work: Callable[[], int], folder: Path, environment: Mapping[str, str], output: Path, errors: Path) -> int:
    """A process of its own that does something, see `become`."""
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads: only a process of one can fork"
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        become(work, folder, environment, output, errors)
    return process


def fork_ranks(work: Callable[[int], int], count: int, folder: Path) -> list[int]:
    """Processes that do the work of ranks, in the environment that torchrun would give them.

    Args:
        work: is given the number of its rank, and returns an exit code.
        folder: where they run; what they say goes to `rank-N.log` there.
    """
    from torch.distributed.elastic.utils.distributed import get_free_port

    from benchmarks.support import clean

    port = get_free_port()
    return [
        fork(
            lambda rank=rank: work(rank),  # type: ignore[misc]
            folder,
            clean.environment() | rank_environment(rank, count, port),
            *[folder / f"rank-{rank}.log"] * 2,
        )
        for rank in range(count)
    ]


def wait_for(processes: Sequence[int]) -> list[tuple[int, int]]:
    """Exit code and peak memory in MB of each, once all have ended."""
    ended = [os.wait4(process, 0) for process in processes]
    return [(os.waitstatus_to_exitcode(status), usage.ru_maxrss // 1024) for _, status, usage in ended]


def _serve(folder: Path) -> None:
    """Forks a process for each order that comes through the pipe, until the one who made it is gone."""
    import accelerate  # noqa: F401
    import torch._dynamo  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    import phalanx.launch.evaluate
    import phalanx.launch.main
    import phalanx.launch.say
    import phalanx.train.start  # noqa: F401

    gc.freeze()  # a collection in a fork would copy the memory of all that it looks through
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads: only a process of one can fork"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who keep the ranks are not waited for
    (folder / "ready").touch()
    with open(folder / "orders") as orders:
        for line in orders:
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(orders.fileno())
                _keep(Path(line.rstrip("\n")))


def _keep(folder: Path) -> NoReturn:
    """Starts the processes of the order that lies in a folder, waits for them, and writes down how they ended."""
    from phalanx.dist.processes.children import die_with_parent

    die_with_parent()
    order = json.loads((folder / "order").read_text())
    environment, count, arguments = order["environment"], order["ranks"], order["arguments"]
    processes = []
    for rank in range(max(1, count)):
        process = os.fork()
        if process == 0:
            output, errors = folder / f"{rank}.out", folder / f"{rank}.err"
            told = environment | rank_environment(rank, count, order["port"]) if count else environment
            become(lambda: _called(order["function"], arguments), Path(order["cwd"]), told, output, errors)
        processes.append(process)
    _write(folder / "processes", processes)
    codes: dict[int, int] = {}
    failed_at = None
    while len(codes) < len(processes):
        for process in set(processes) - set(codes):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                codes[process] = os.waitstatus_to_exitcode(status)
        if failed_at is None and any(code not in (0, 75) for code in codes.values()):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _GRACE_S:
            for process in set(processes) - set(codes):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.005)
    _write(folder / "codes", [codes[process] for process in processes])
    os._exit(0)


def _called(function: str, arguments: Sequence[str]) -> int:
    module, _, name = function.partition(":")
    return int(getattr(importlib.import_module(module), name)(arguments))


def run_script(arguments: Sequence[str]) -> int:
    """What `python SCRIPT ARGUMENTS` does, in a forked process."""
    sys.argv = list(arguments)
    sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
    runpy.run_path(os.path.abspath(arguments[0]), run_name="__main__")  # as `__file__` of a script is
    return 0


def _write(path: Path, content: list[int] | dict[str, Any]) -> None:
    """A file is there when it is whole."""
    path.with_suffix(".new").write_text(json.dumps(content))
    path.with_suffix(".new").rename(path)


def _order(
    folder: Path,
    name: str,
    arguments: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    ranks: int = 0,
    port: int = 0,
    function: str = _COMMAND,
) -> "Forked":
    """Tells the process that serves a folder what to fork."""
    here = folder / name
    here.mkdir()
    order: dict[str, Any] = {"arguments": list(arguments), "function": function, "ranks": ranks, "port": port}
    order |= {"cwd": cwd, "environment": dict(environment)}
    _write(here / "order", order)
    orders = os.open(folder / "orders", os.O_WRONLY | os.O_NONBLOCK)  # fails where nobody reads any more
    os.write(orders, f"{here}\n".encode())  # so short that it arrives in one piece, whoever else orders
    os.close(orders)
    return Forked(here, arguments)


class Forked:
    """Processes under way that one order started; in the words of `subprocess.Popen`."""

    def __init__(self, folder: Path, arguments: Sequence[str]):
        self.args, self._folder = list(arguments), folder
        self.returncode: int | None = None
        while not (folder / "processes").exists():
            time.sleep(0.002)
        self.processes: list[int] = json.loads((folder / "processes").read_text())
        self.pid = self.processes[0]

    def poll(self) -> int | None:
        """The exit code once all have ended: the first one that is not 0."""
        if self.returncode is None and (self._folder / "codes").exists():
            codes = json.loads((self._folder / "codes").read_text())
            self.returncode = next((code for code in codes if code), 0)
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What all of them wrote, in the order of ranks, once they have ended.

        Raises:
            subprocess.TimeoutExpired: where they have not.
        """
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self._written("out"), self._written("err")

    def _written(self, kind: str) -> str:
        return "".join((self._folder / f"{rank}.{kind}").read_text() for rank in range(len(self.processes)))

    def errors_so_far(self) -> str:
        there = [self._folder / f"{rank}.err" for rank in range(len(self.processes))]
        return "".join(file.read_text() for file in there if file.exists())

    def send_signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            os.kill(process, number)


class Forge:
    """The process that forks; it starts with the first order.

    Args:
        environment: gives its own, from which tests know it.
        root: the checkout whose code it runs.
    """

    def __init__(self, environment: Callable[[], dict[str, str]], root: Path = ROOT) -> None:
        self._environment, self._root = environment, root
        self._server: subprocess.Popen[bytes] | None = None
        self._folder, self._orders = Path(), 0
        self._open = -1  # this end of the pipe: while it is open, the other one waits for orders

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server else None

    def start(
        self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], ranks: int = 0, function: str | None = None
    ) -> Forked:
        """`phalanx ARGUMENTS`; or, where there are `ranks`, so many of `phalanx.launch.train` as torchrun starts them.

        Args:
            function: `module:name` of what is called with the arguments instead, and returns an exit code.
        """
        from torch.distributed.elastic.utils.distributed import get_free_port

        self._start()
        self._orders += 1
        port = get_free_port() if ranks > 1 else 0
        function = function or (_RANK if ranks else _COMMAND)
        return _order(self._folder, str(self._orders), arguments, str(cwd.absolute()), environment, ranks, port, function)

    def commands(self, folder: Path) -> Path:
        """Writes `phalanx`, `python` and `torchrun` into a folder, to be put first in a shell's PATH: forks do their work.

        Python forks for `python SCRIPT.py ...`, torchrun for `torchrun --nproc-per-node N SCRIPT.py ...`, and otherwise both
        are what they were.
        """
        self._start()
        order = shlex.join([sys.executable, "-I", "-S", str(Path(__file__)), "order", str(self._folder)])
        real = Path(sys.executable).parent
        scripts = {
            "phalanx": f'exec {order} {_COMMAND} 0 "$@"',
            "python": f'case "$1" in *.py) exec {order} {SCRIPT} 1 "$@";; *) exec {real}/python "$@";; esac',
            "torchrun": f'case "$1 $3" in "--nproc-per-node "*.py) count=$2; shift 2; exec {order} {SCRIPT} $count "$@";; '
            f'*) exec {real}/torchrun "$@";; esac',
        }
        for name, content in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{content}\n")
            (folder / name).chmod(0o755)
        return folder

    def _start(self) -> None:
        if self._server is not None:
            return
        self._folder = Path(tempfile.mkdtemp(prefix="phalanx-forked-"))
        os.mkfifo(self._folder / "orders")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.support.forking", "serve", str(self._folder)],
            cwd=self._root,
            env=self._environment() | ONE_THREAD,
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_S
        while not (self._folder / "ready").exists():
            assert self._server.poll() is None and time.monotonic() < deadline, "the process that forks did not start"
            time.sleep(0.02)
        self._open = os.open(self._folder / "orders", os.O_WRONLY)

    def close(self) -> None:
        if self._server is not None:
            if self._open >= 0:  # else it did not start in time
                os.close(self._open)
            self._server.terminate()  # where another process has the pipe open too
            self._server.wait(30)
            shutil.rmtree(self._folder)


def _free_port() -> int:
    """Without torch, which takes seconds to import."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _without_launcher(arguments: list[str]) -> tuple[str, int, list[str]]:
    """What `phalanx VERB ... --nproc N` has its ranks call, which the launcher would start anew: function, ranks, arguments."""
    verb = arguments[0] if arguments else ""
    if verb in _RANKS_OF and "--nproc" in arguments and "--fork" not in arguments:
        place = arguments.index("--nproc")
        count, rest = int(arguments[place + 1]), arguments[1:place] + arguments[place + 2 :]
        if count > 1:
            return _RANKS_OF[verb], count, ["--resume", *rest] if verb == "resume" else rest
    return _COMMAND, 0, arguments


def _as_command(folder: Path, function: str, ranks: int, arguments: list[str]) -> int:
    """Has a command's work done in forked processes; what they write is passed on at their end, and the exit code."""
    if function == _COMMAND:
        function, ranks, arguments = _without_launcher(arguments)
    port = _free_port() if ranks > 1 else 0
    ended = _order(folder, f"command-{os.getpid()}", arguments, os.getcwd(), os.environ, ranks, port, function)
    output, errors = ended.communicate(_COMMAND_S)
    sys.stdout.write(output)
    sys.stderr.write(errors)
    return ended.returncode or 0


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    sys.exit(_serve(folder) if what == "serve" else _as_command(folder, sys.argv[3], int(sys.argv[4]), sys.argv[5:]))
