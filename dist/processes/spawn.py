"""Starting ranks on this machine through accelerate launch: signals reach every rank, and the ranks' exit code is returned."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode
from phalanx.configs.sections.dist import DistConfig
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.processes import rank_status, scratch
from phalanx.dist.processes.environment import without_ranks
from phalanx.dist.processes.gpus import count_gpus
from phalanx.dist.processes.stop import answer_from_now_on, answered

_GRACE_S = 5.0  # for the others to end by themselves after a rank failed


def default_processes(config: DistConfig) -> int:
    """One rank per GPU, otherwise one."""
    if config.device == "cpu" or STRATEGIES[config.strategy].one_rank:
        return 1
    return max(1, count_gpus())


def _command(module: str, arguments: Sequence[str], processes: int) -> list[str]:
    launch = ["--multi_gpu", "--num_machines", "1", "--num_processes", str(processes), "--main_process_port", "0"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", module]
    return [sys.executable, "-m", "phalanx.launch.agent", *launch, *arguments]


def _environment(config: DistConfig, folder: Path) -> dict[str, str]:
    environment = without_ranks(os.environ) | {rank_status.VARIABLE: str(folder)} | scratch.environment(folder)
    environment["PYTHONSAFEPATH"] = "1"  # a user's train.py or data/ must not shadow modules
    if config.device == "cpu" or count_gpus() == 0:
        environment["ACCELERATE_USE_CPU"] = "true"
    return environment


class _Signals:
    """Receives signals for the ranks, and forwards each to every rank once all have arrived."""

    def __init__(self, folder: Path, processes: int):
        self._folder, self.processes, self._waiting, self._told = folder, processes, list[int](), False
        self._before = {number: signal.signal(number, self._take) for number in answered()}
        answer_from_now_on()

    def _take(self, number: int, frame: object) -> None:
        self._waiting.append(number)

    def forward(self) -> None:
        if not self._waiting:
            return
        if len(rank_status.process_ids(self._folder)) < self.processes:
            self._answer()
            return
        waiting, self._waiting = self._waiting, []
        # Rank 0 first, which answers: a run of short steps may have ended before the last rank is told.
        for number in waiting:
            _send(rank_status.still_there(self._folder).values(), number)

    def _answer(self) -> None:
        """Answers an interrupt at once, even while the ranks, which otherwise answer, are still starting."""
        if signal.SIGINT in self._waiting and not self._told:
            self._told = True
            rank_status.interrupt_answered(self._folder)
            _say("interrupted: stopping as soon as the ranks have started. A second Ctrl-C stops at once; nothing is lost yet.")

    @property
    def impatient(self) -> bool:
        """Whether a second interrupt came before all ranks had arrived: nothing can be lost yet."""
        return self._waiting.count(signal.SIGINT) >= 2

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _say(sentence: str) -> None:
    print(f"phalanx: {sentence}", file=sys.stderr, flush=True)


def _send(processes: Iterable[int], number: int) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue  # it has exited


def spawn(module: str, arguments: Sequence[str], processes: int, config: DistConfig) -> ExitCode:
    """Runs a module of Phalanx on a number of ranks, and waits.

    Returns:
        The ranks' exit code: that of the first failure, else 75 if they stopped early, else 0.
    """
    with scratch.opened() as folder:
        signals = _Signals(folder, processes)
        try:
            launcher = subprocess.Popen(
                _command(module, arguments, processes), env=_environment(config, folder), start_new_session=True
            )
            ended_here = _wait(launcher, folder, signals)
        finally:
            signals.restore()
        return _exit_code(folder, processes, ended_here)


def _wait(launcher: "subprocess.Popen[bytes]", folder: Path, signals: _Signals) -> set[int]:
    """Waits until the launcher has ended. Ranks that outlive a failed one for too long are killed, and returned."""
    failed_at: float | None = None
    killed = set[int]()
    while launcher.poll() is None:
        signals.forward()
        if signals.impatient:
            launcher.kill()  # ranks die with it
            launcher.wait()
            _say("interrupted twice: stopping at once, before the ranks have started.")
            return set(range(signals.processes))
        ended = rank_status.exit_codes(folder)
        if failed_at is None and any(code not in (ExitCode.DONE, ExitCode.STOPPED_EARLY) for code in ended.values()):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > _GRACE_S:
            left = {rank: process for rank, process in rank_status.still_there(folder).items() if rank not in ended}
            killed |= set(left)
            _send(left.values(), signal.SIGKILL)
        time.sleep(0.05)
    return killed


def _exit_code(folder: Path, processes: int, ended_here: set[int]) -> ExitCode:
    codes = rank_status.exit_codes(folder)
    failures = [code for code in codes.values() if code not in (ExitCode.DONE, ExitCode.STOPPED_EARLY)]
    silent = sorted(set(range(processes)) - set(codes))
    if unexplained := [str(rank) for rank in silent if rank not in ended_here]:
        _say(f"rank {', '.join(unexplained)} ended without a report: it was killed, or ran out of memory")
    if failures or silent:
        return ExitCode(failures[0]) if failures else ExitCode.FAILED
    return ExitCode.STOPPED_EARLY if ExitCode.STOPPED_EARLY in codes.values() else ExitCode.DONE
