"""Asked to stop, a run saves and says so by its exit code; whatever ends, nothing is left running."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.running import (
    DIGITS,
    FEW_EVALUATED,
    PHALANX,
    Command,
    alive,
    answer,
    forked,
    lines,
    phalanx,
    ranks,
    sample_ids,
    start,
    tensors,
)

RECIPE = [
    DIGITS,
    FEW_EVALUATED,
    "train.global_batch=16",
    "train.micro_batch=4",
    "train.log_every=1",
    "data.workers=1",
    "data.ledger=true",
]
LONG = [*RECIPE, "train.steps=100000", "name=long"]

# A loss that is not finite from a given sample on, and a rank that fails.
OWN_TASK = """
import os
from phalanx.train.tasks.classification import Classification

class NotANumber(Classification):
    def losses(self, model, batch):
        total, weight = super().losses(model, batch)["cross_entropy"]
        bad = bool((batch["id"] == 5).any()) and bool((batch["epoch"] == 0).all()) and self.armed
        return {"cross_entropy": (total * float("nan") if bad else total, weight)}
    armed = False
    def weights(self, batch):
        self.armed = True  # not in the warm-up
        return super().weights(batch)

class Raises(NotANumber):
    def losses(self, model, batch):
        if self.armed and os.environ.get("RANK") == "1":
            raise ZeroDivisionError("rank 1 breaks")
        return super().losses(model, batch)
"""


def _training(run_directory: Path) -> bool:
    return len(lines(run_directory / "ledger/rank-0.jsonl")) >= 2


def _module(process: psutil.Process) -> str | None:
    """The module that a process of Python runs."""
    words = answer(process.cmdline) or []
    return words[words.index("-m") + 1] if "-m" in words else None


def _ranks(running: Command) -> list[psutil.Process]:
    """The ranks; their loader processes have the same command line."""
    there = [p for p in running.family() if _module(p) == "phalanx.launch.train"]
    numbers = {p.pid for p in there}
    return [p for p in there if answer(p.ppid) not in numbers]


def _assert_stopped_at_one_step(run_directory: Path) -> None:
    """Both ranks took part in the same steps, and the last of them was saved."""
    events = lines(run_directory / "events.jsonl")
    assert [e["event"] for e in events] == ["start", "save", "preempt"]
    step = events[-1]["step"]
    assert [len(lines(run_directory / f"ledger/rank-{r}.jsonl")) for r in (0, 1)] == [step, step]
    assert tensors(run_directory, step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_ranks_at_one_step_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    running = start([*PHALANX, "train", *LONG, "--nproc", "2"], tmp_path)
    run_directory = tmp_path / "runs/long"
    running.until(lambda: _training(run_directory))
    running.signal(number)
    assert running.wait() == 75, running.errors
    _assert_stopped_at_one_step(run_directory)
    assert "Traceback" not in running.errors and "phalanx resume runs/long" in running.output
    assert running.errors.count("A second Ctrl-C stops at once and loses") == (number == signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_one_of_the_ranks_stops_both_at_one_step(tmp_path: Path, number: signal.Signals) -> None:
    running = forked(*LONG, cwd=tmp_path, count=2)
    run_directory = tmp_path / "runs/long"
    running.until(lambda: _training(run_directory))
    os.kill(running.process.processes[1], number)
    assert running.wait() == 75, running.errors
    _assert_stopped_at_one_step(run_directory)
    assert "Traceback" not in running.errors and "phalanx resume runs/long" in running.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_stops_a_single_process_too(tmp_path: Path, number: signal.Signals) -> None:
    running = forked("train", *LONG, cwd=tmp_path)
    running.until(lambda: _training(tmp_path / "runs/long"))
    running.signal(number)
    assert running.wait() == 75, running.errors


# TERM, which `phalanx cancel` sends to a run in the background: tests/slurm/test_submit.py.
def test_a_signal_that_comes_while_ranks_are_starting_is_not_lost(tmp_path: Path) -> None:
    running = start([*PHALANX, "train", *LONG, "--nproc", "2"], tmp_path)
    running.until(lambda: (tmp_path / "runs").exists() or len(running.family()) > 2)
    running.signal(signal.SIGUSR1)
    assert running.wait() == 75, running.errors
    if lines(tmp_path / "runs/long/events.jsonl"):
        _assert_stopped_at_one_step(tmp_path / "runs/long")
    else:
        assert "Nothing is lost." in running.errors and "Traceback" not in running.errors


IMPORTING = """
import time
from phalanx.dist.processes.stop import StopRequest

stop = StopRequest()
with stop.at_once():
    print("importing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_rank_imports_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """A launcher kills ranks that have not ended half a minute after the first one."""
    running = start([sys.executable, "-c", IMPORTING], tmp_path)
    assert running.process.stdout is not None and running.process.stdout.readline() == "importing\n"  # type: ignore[union-attr]
    running.signal(number)
    assert running.wait(timeout=10) == 75
    assert f"stopped by {number.name} before the run had started. Nothing is lost." in running.errors


def test_torchrun_passes_sigterm_on_and_the_ranks_save(tmp_path: Path) -> None:
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--nproc_per_node", "2", "-m", "phalanx.launch.train"]
    running = start([*torchrun, *LONG], tmp_path)
    running.until(lambda: _training(tmp_path / "runs/long"))
    running.signal(signal.SIGTERM)
    assert running.wait() != 0
    _assert_stopped_at_one_step(tmp_path / "runs/long")


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    # Steps so long that the first interrupt cannot have been answered when the second comes.
    slow = ["train.global_batch=192", "train.micro_batch=96", "model.stem=small", "checkpoint.every_steps=1"]
    running = start([*PHALANX, "train", *LONG, *slow, "--nproc", "2"], tmp_path)
    running.until(lambda: len(_ranks(running)) == 2 and (tmp_path / "runs/long/ledger").exists())
    time.sleep(0.5)
    running.signal(signal.SIGINT)
    time.sleep(0.2)
    asked = time.monotonic()
    running.signal(signal.SIGINT)
    assert running.wait() == 1
    assert time.monotonic() - asked < 10
    assert running.errors.count("interrupted twice: stopping at once") == 1 and "without a report" not in running.errors


def test_two_interrupts_while_ranks_are_starting_end_it(tmp_path: Path) -> None:
    running = start([*PHALANX, "train", *LONG, "--nproc", "2"], tmp_path)
    running.until(lambda: len(running.family()) > 1)
    for _ in range(2):
        running.signal(signal.SIGINT)
        time.sleep(0.1)
    assert running.wait(timeout=10) == 1
    assert not (tmp_path / "runs").exists()
    assert running.errors.count("phalanx: interrupted: stopping as soon as the ranks have started") == 1
    assert running.errors.count("interrupted twice: stopping at once") == 1 and "without a report" not in running.errors


@pytest.mark.parametrize("who", ["command", "launcher"])
def test_ranks_end_when_what_started_them_is_killed(tmp_path: Path, who: str) -> None:
    running = start([*PHALANX, "train", *LONG, "--nproc", "2"], tmp_path)
    running.until(lambda: _training(tmp_path / "runs/long"))
    family = running.family()
    victim = running.process.pid if who == "command" else next(p.pid for p in family if _module(p) == "phalanx.launch.agent")
    psutil.Process(victim).kill()
    _, left = psutil.wait_procs(family, timeout=15)
    assert not alive(left)
    running.wait()


def test_a_loss_that_is_not_finite_names_step_and_samples_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    arguments = [*LONG, "task.name=./my_task.py:NotANumber", "checkpoint.every_steps=2"]
    failed = ranks(2, *arguments, cwd=tmp_path, expect=1)
    run_directory = tmp_path / "runs/long"
    failure = next(e for e in lines(run_directory / "events.jsonl") if e["event"] == "failure")
    (bad_step,) = [step for step, ids in sample_ids(run_directory).items() if 5 in ids]
    assert f"step {bad_step}: the loss is not finite" in failed.errors
    assert 0 < failed.errors.find("Lower optim.lr") < failed.errors.find("check the 4 samples of the micro-batch: ")
    assert f"TrainingFailed: step {bad_step}:" in failure["reason"] and "Traceback" not in failed.errors
    saved = max(e["step"] for e in lines(run_directory / "events.jsonl") if e["event"] == "save")
    assert saved < bad_step and f"step-{saved:08d}" in failed.errors
    assert all(abs(t).max() < 1e30 for t in tensors(run_directory).values() if t.size)


def test_a_failing_rank_ends_all_and_leaves_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    failed = phalanx("train", *LONG, "task.name=./my_task.py:Raises", "--nproc", 2, cwd=tmp_path, expect=1)
    assert "ZeroDivisionError: rank 1 breaks" in failed.errors and "phalanx: rank 1 failed in step 1:" in failed.errors
    assert "rank 1 breaks" in (tmp_path / "runs/long/errors/rank-1.json").read_text()


def test_a_killed_rank_ends_all_and_is_named(tmp_path: Path) -> None:
    running = start([*PHALANX, "train", *LONG, "--nproc", "2"], tmp_path)
    running.until(lambda: _training(tmp_path / "runs/long"))
    (victim,) = [rank for rank in _ranks(running) if (answer(rank.environ) or {}).get("RANK") == "0"]
    victim.kill()
    assert running.wait() == 1
    assert "phalanx: rank 0 ended without a report" in running.errors


def test_stop_at_a_step_that_is_past_is_refused(tmp_path: Path) -> None:
    small = [*RECIPE, "train.steps=4", "name=short"]
    phalanx("train", *small, "--stop-at", 2, cwd=tmp_path, expect=75)
    refused = phalanx("resume", "runs/short", "--stop-at", "1", cwd=tmp_path, expect=2)
    assert "--stop-at 1: the run is at step 2 already" in refused.errors
