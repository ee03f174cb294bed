"""A hang on a GPU: the host waits, and the work that does not end is named; a rank that fails leaves at once."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.support.rank_pool import Pool
from phalanx.dist import device_progress, heartbeat
from phalanx.dist.comm import flight_recorder, process_group
from phalanx.dist.comm.process_group import World
from phalanx.dist.device_progress import DeviceProgress
from phalanx.dist.health.hang import HangReport, Heard, Sign, judge
from phalanx.dist.health.watchdog import Watchdog
from phalanx.dist.heartbeat import Stage, beat
from phalanx.dist.host_copy import HostCopies
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.storage.run_directory import RunDirectory
from tests.support.running import clean_environment


class Event:
    """An event that the GPU reaches when it is told to; waiting for it notes the host's stage."""

    def __init__(self, reached: bool = False):
        self.reached, self.stages = reached, list[str]()

    def query(self) -> bool:
        return self.reached

    def synchronize(self) -> None:
        self.stages.append(heartbeat.latest().stage)


@pytest.fixture(autouse=True)
def _stage() -> Iterator[None]:
    yield
    beat("join", 0)


def test_the_first_work_that_a_gpu_has_not_finished_is_known_with_its_step_and_stage() -> None:
    progress, forward, backward = DeviceProgress(period=3600), Event(), Event()
    assert progress.unfinished is None
    beat("forward", 39)
    progress.mark("forward", forward)
    beat("backward")
    progress.mark("backward", backward)
    backward.reached = True  # a later one alone is no progress
    progress.look()
    assert progress.unfinished == (39, "forward")
    forward.reached, backward.reached, before = True, False, progress.moved
    time.sleep(0.01)
    progress.look()
    assert progress.unfinished == (39, "backward") and progress.moved > before
    backward.reached = True
    progress.look()
    assert progress.unfinished is None


def test_a_host_that_waits_for_its_gpu_is_in_a_stage_of_its_own_and_then_where_it_was() -> None:
    beat("loading", 41)
    ready, copies = Event(), HostCopies([torch.zeros(1)])
    copies._end = ready  # type: ignore[assignment]
    copies.read()
    assert ready.stages == ["GPU wait"] and heartbeat.latest()[:2] == (41, "loading")


def _heard(step: int, stage: Stage, gpu: tuple[int, Stage] | None = None, age: float = 1000.0) -> Heard:
    more = {} if gpu is None else {"gpu_step": gpu[0], "gpu_stage": gpu[1]}
    return Heard(Sign("once", 1, step, stage, age, "step_metrics.py:111, _host_sums", False, False, "here", 1, 1, **more), 0.0)


def _judged(*heard: Heard) -> HangReport:
    hang = judge(0, dict(enumerate(heard)), 900)
    assert hang is not None
    return hang


def test_of_hosts_that_wait_the_one_hangs_whose_gpu_is_behind() -> None:
    waits_for_others, stuck = _heard(41, "GPU wait", (39, "backward")), _heard(41, "GPU wait", (39, "forward"))
    hang = _judged(waits_for_others, stuck, waits_for_others)
    assert hang.hung == [1]
    assert hang.sentence(3) == (
        "rank 1 has not moved for 1000 s, in its GPU wait of step 41 (step_metrics.py:111, _host_sums), and its GPU has not "
        "finished the forward of step 39"
    )
    both = _judged(stuck, stuck).sentence(2)
    assert "their GPUs have not finished the forward of step 39, and none is behind the others: check the network" in both
    # A rank that launches nothing is behind, although its GPU has nothing left to do.
    assert _judged(_heard(41, "loading"), waits_for_others).hung == [0]
    assert "GPU" not in _judged(_heard(41, "loading"), waits_for_others).sentence(2)


def _hang_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: Event, seconds: float) -> HangReport | None:
    """The hang that the watchdog of a single rank finds within some seconds, while its host waits for an event."""
    found: list[HangReport] = []
    monkeypatch.setattr(Watchdog, "_end", lambda self, hang: found.append(hang))
    with device_progress.watched(0.05) as device:
        watchdog = Watchdog(RunDirectory(tmp_path), Ranks(), 0.6, 0.05, device)
        beat("loading", 41)
        device.mark("backward", event)
        watchdog.start()
        with device_progress.awaited():
            deadline = time.monotonic() + seconds
            while not found and time.monotonic() < deadline:
                time.sleep(0.02)
                if event.reached:  # the GPU goes on with other work
                    device.mark("backward", event)
        watchdog.stop()
    return found[0] if found else None


def test_a_gpu_that_does_not_end_its_work_is_told_and_one_that_moves_is_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = _hang_of(tmp_path, monkeypatch, Event(), 30)
    assert hang is not None and (hang.stage, hang.gpu) == ("GPU wait", "backward of step 41")
    assert _hang_of(tmp_path, monkeypatch, Event(reached=True), 2) is None


def test_what_the_user_sets_of_the_flight_recorder_stays() -> None:
    environment: dict[str, str] = {}
    flight_recorder.prepare(1800.5, environment)
    switches = {"TORCH_FR_BUFFER_SIZE": "2000", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0", "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "1801"}
    assert environment == switches
    own = {"TORCH_NCCL_TRACE_BUFFER_SIZE": "7", "TORCH_NCCL_DUMP_ON_TIMEOUT": "1"}
    flight_recorder.prepare(1800.0, own)
    assert own["TORCH_FR_BUFFER_SIZE"] == "7" and own["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "1"


FAILS = """
import sys, threading, time
from phalanx.configs.errors import UserError
from phalanx.launch import rank

def configure():
    raise UserError("this is refused. Change it.")

rank._holds_gpus = lambda: True
threading.Thread(target=time.sleep, args=(1000,)).start()  # as unfinished collectives, it keeps the interpreter from ending
print("printed before", end="")
sys.exit(rank.run(configure, None))
"""


def test_a_failed_rank_on_gpus_leaves_at_once_with_its_code_and_all_that_it_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAILS]
    ended = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "printed before", "phalanx: this is refused. Change it.\n")


def _holds_gpus(world: World) -> bool:
    return process_group.holds_gpus()


def test_a_rank_on_cpus_ends_as_ever(pool: Pool) -> None:
    assert pool.run(2, _holds_gpus) == [False, False] and not process_group.holds_gpus()
