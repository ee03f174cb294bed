"""A rank that hangs is named with its stack, and the run ends with 75; one that is only slow is left alone."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from phalanx.dist.health.hang import HangReport, Heard, Noticeboard, Sign, judge
from phalanx.dist.health.watchdog import watched
from phalanx.dist.heartbeat import Stage, beat
from phalanx.dist.processes.children import born, kill_rank
from phalanx.dist.processes.environment import Ranks, start_of_run
from phalanx.dist.storage.run_directory import RunDirectory
from tests.support.running import DIGITS, FEW_EVALUATED, PHALANX, answer, forked, lines, ranks, start

RECIPE = [DIGITS, "train.global_batch=16", "train.micro_batch=4", "train.log_every=1", "data.workers=1", "data.ledger=true"]
RECIPE += ["data.image_size=16", "dist.device=cpu", FEW_EVALUATED]

# The first time that rank 1, or a rank that is alone, comes to its third step, it sleeps for ever.
OWN_TASK = """
import os, time
from pathlib import Path
from phalanx.train.tasks.classification import Classification

class Sleeps(Classification):
    forwards = -3  # two of the first look at an own network, and the warm-up's

    def losses(self, model, batch):
        self.forwards += 1
        if self.forwards == 5 and os.environ.get("RANK", "1") == "1" and not Path("slept").exists():
            Path("slept").touch()
            time.sleep(10_000)
        return super().losses(model, batch)

class IsSlow(Classification):
    measured = 0

    def losses(self, model, batch):
        time.sleep(0.4)
        return super().losses(model, batch)

    def measure(self, model, batch):
        self.measured += 1
        time.sleep(1.6 if self.measured <= 5 and os.environ.get("RANK") == "1" else 0)
        return super().measure(model, batch)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    return tmp_path


def _line_of_the_sleep() -> int:
    return OWN_TASK.splitlines().index("            time.sleep(10_000)") + 1


def test_a_rank_that_hangs_is_named_with_its_line_and_the_resumed_run_resumes(folder: Path) -> None:
    options = ["task.name=./my_task.py:Sleeps", "checkpoint.every_steps=1", "train.steps=4", "dist.hang_s=4", "name=sleeps"]
    hanging = forked(*RECIPE, *options, cwd=folder, count=2, TORCH_FR_BUFFER_SIZE="2000")
    hanging.until(lambda: (folder / "slept").exists())
    begun = time.monotonic()
    assert hanging.wait() == 75, hanging.errors
    assert time.monotonic() - begun < 10
    place = f"my_task.py:{_line_of_the_sleep()}, losses"
    assert f"in its forward of step 3 ({place}); see runs/sleeps/errors/rank-1.json" in hanging.errors
    assert "phalanx: rank 1 has not moved for" in hanging.errors and "resumes it from step 2" in hanging.errors

    run_directory = folder / "runs/sleeps"
    (event,) = [e for e in lines(run_directory / "events.jsonl") if e["event"] == "hang"]
    expected = {"step": 3, "ranks": [1], "silent": [], "stage": "forward", "places": [place]}
    assert {name: event[name] for name in expected} == expected and 4 <= event["seconds"] < 9
    reports = [_report(run_directory, rank) for rank in (0, 1)]
    assert [r["type"] for r in reports] == ["Hung", "Hung"] and [r["echo"] for r in reports] == [True, False]
    assert "time.sleep(10_000)" in "".join(reports[1]["traceback"]) and "engine.backward(" in "".join(reports[0]["traceback"])

    collectives = [json.loads((run_directory / f"errors/collectives-{rank}-gloo.json").read_text()) for rank in (0, 1)]
    # The rank that waits has begun more of them than the one that hangs.
    waiting, hung = (max(entry["record_id"] for entry in recorded["entries"]) for recorded in collectives)
    assert waiting > hung > 0

    ranks(2, "--resume", "runs/sleeps", cwd=folder)
    assert [e["event"] for e in lines(run_directory / "events.jsonl")][-1] == "done"
    assert not list((run_directory / ".heartbeat").glob("rank-*"))


def _report(run_directory: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_directory / f"errors/rank-{rank}.json").read_text())
    return found


def test_a_rank_that_is_alone_notices_by_itself_that_it_hangs(folder: Path) -> None:
    options = ["task.name=./my_task.py:Sleeps", "train.steps=4", "dist.hang_s=3"]
    hung = ranks(1, *RECIPE, *options, "name=alone", cwd=folder, expect=75)
    assert "rank 0 has not moved" in hung.errors and "starts it again" in hung.errors
    assert "time.sleep(10_000)" in "".join(_report(folder / "runs/alone", 0)["traceback"])


def test_a_rank_that_does_not_answer_is_named_and_killed(folder: Path) -> None:
    options = ["checkpoint.every_steps=1", "train.steps=100000", "dist.hang_s=4", "name=stopped"]
    running = start([*PHALANX, "train", *RECIPE, *options, "--nproc", "2"], folder)
    run_directory = folder / "runs/stopped"
    running.until(lambda: len(lines(run_directory / "ledger/rank-1.jsonl")) >= 2)
    (stopped,) = [p for p in running.family() if _rank(p) == "0" and answer(p.ppid) != 1 and _is_rank(p)]
    stopped.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert running.wait() == 75, running.errors
    assert time.monotonic() - begun < 12
    assert "phalanx: rank 0 has not moved for" in running.errors and "it does not answer" in running.errors
    assert "not known" in "".join(_report(run_directory, 0)["traceback"])
    (event,) = [e for e in lines(run_directory / "events.jsonl") if e["event"] == "hang"]
    assert event["ranks"] == [0] and event["silent"] == [0]


def _rank(process: psutil.Process) -> str | None:
    return (answer(process.environ) or {}).get("RANK")


def _is_rank(process: psutil.Process) -> bool:
    """Its loader processes have the same environment and command line."""
    parent = answer(process.parent)
    return parent is not None and _rank(parent) is None


def test_slow_steps_a_pause_of_all_and_a_long_evaluation_are_no_hang(folder: Path) -> None:
    # A step takes 0.8 s, two micro-batches a rank; rank 1 alone measures for 8 s while rank 0 waits.
    options = ["task.name=./my_task.py:IsSlow", "train.steps=3", "dist.hang_s=6", "name=slow"]
    running = forked(*RECIPE, *options, cwd=folder, count=2)
    running.until(lambda: len(lines(folder / "runs/slow/ledger/rank-0.jsonl")) >= 1)
    running.signal(signal.SIGSTOP)
    time.sleep(8)
    running.signal(signal.SIGCONT)
    assert running.wait() == 0, running.errors
    assert [e["event"] for e in lines(folder / "runs/slow/events.jsonl")][-1] == "done"


def _heard(step: int, stage: Stage, age: float, waits: bool = False, silence: float = 0.0) -> Heard:
    return Heard(Sign("once", 1, step, stage, age, f"{stage}.py:1", waits, False, "here", 1, 1), silence)


def test_nobody_hangs_while_one_rank_moves() -> None:
    heard = {0: _heard(3, "backward", 1000), 1: _heard(3, "forward", 1000), 2: _heard(3, "evaluation", 5)}
    assert judge(0, heard, 900) is None


def test_the_rank_that_is_behind_hangs_and_all_of_them_where_several_are() -> None:
    behind, waiting = _heard(3, "forward", 1000), _heard(3, "backward", 950)
    assert _hung(behind, waiting, waiting) == [0]
    assert _hung(waiting, behind, behind) == [1, 2]
    assert _hung(waiting, _heard(2, "update", 1000), behind) == [1]
    # FSDP's forwards wait for all ranks: the one that does not wait is the one that all wait for.
    assert _hung(_heard(3, "forward", 1000, waits=True), _heard(3, "forward", 990)) == [1]


def test_a_save_may_take_longer_but_waiting_in_one_for_a_rank_that_hangs_may_not() -> None:
    saving = _heard(3, "save", 1000)
    assert judge(0, {0: saving, 1: saving}, 900) is None
    assert _hung(_heard(3, "save", 4000), _heard(3, "save", 4000, waits=True)) == [0]
    assert _hung(saving, _heard(3, "update", 1000)) == [1]
    assert _hung(saving, _heard(3, "save", 10, silence=950)) == [1]


def test_a_rank_without_new_signs_stands_still_and_does_not_answer() -> None:
    hang = judge(0, {0: _heard(3, "backward", 1000), 1: _heard(2, "backward", 1, silence=920)}, 900)
    assert hang is not None and (hang.hung, hang.silent) == ([1], [1])
    assert "it does not answer" in hang.sentence(2)
    assert judge(0, {0: _heard(3, "backward", 1000), 1: _heard(2, "backward", 1, silence=800)}, 900) is None
    never = judge(0, {0: _heard(0, "join", 1000), 1: Heard(None, 950)}, 900)
    assert never is not None and "rank 1 was not heard from for 950 s" in never.sentence(2)


def _hung(*heard: Heard) -> list[int]:
    hang = judge(0, dict(enumerate(heard)), 900)
    assert hang is not None
    return hang.hung


_AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.mark.parametrize("planted", [pytest.param("of others", marks=_AS_ROOT), "a link", "writable by others", "a pipe"])
def test_what_others_wrote_into_the_heartbeat_folder_is_not_read(tmp_path: Path, planted: str) -> None:
    board, other = (Noticeboard(tmp_path, rank, "once") for rank in (0, 1))
    hang = HangReport("once", 1, [0], [0], 3, "forward", [], 1000.0)
    sign = _heard(3, "forward", 1.0).sign
    assert sign is not None
    board.publish(sign)
    other.publish(sign)
    other.announce(hang)
    assert board.sign_of(1) == sign and board.report() == hang
    for file in (tmp_path / "rank-1.json", tmp_path / "verdict.json"):
        assert file.stat().st_mode & 0o777 == 0o600
        if planted == "of others":
            os.chown(file, 12345, -1)
        elif planted == "writable by others":
            file.chmod(0o620)
        else:
            file.rename(tmp_path / f"{file.name}.real")
            file.symlink_to(tmp_path / f"{file.name}.real") if planted == "a link" else os.mkfifo(file)
    assert board.sign_of(1) is None and board.report() is None


def _content(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def test_until_a_run_is_claimed_nothing_is_written_into_the_signs_of_whoever_has_it(tmp_path: Path) -> None:
    run, theirs = RunDirectory(tmp_path), tmp_path / ".heartbeat/rank-0.json"
    run.identity.touch()
    theirs.parent.mkdir(mode=0o700)
    theirs.write_text("theirs")
    beat("join", 0)
    with watched(run, Ranks(rank=0, world=2), 4.0):  # which looks every 0.2 s
        for _ in range(10):
            beat("join", 0)
            time.sleep(0.1)
        assert theirs.read_text() == "theirs"
    assert theirs.read_text() == "theirs"
    with watched(run, Ranks(rank=0, world=2), 4.0):
        beat("build")
        while _content(theirs) in ("theirs", None):  # signs of before are removed, then one's own is written
            time.sleep(0.05)
            beat("build")
    assert not theirs.exists()


def test_a_sign_is_never_written_through_a_planted_link(tmp_path: Path) -> None:
    board, precious = Noticeboard(tmp_path / "signs", 0, "once"), tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "signs").mkdir()
    (tmp_path / f"signs/.rank-0.json.0.{os.getpid()}.tmp").symlink_to(precious)
    (tmp_path / "signs/rank-0.json").symlink_to(precious)
    sign = _heard(3, "forward", 1.0).sign
    assert sign is not None
    board.publish(sign)
    assert board.sign_of(0) == sign and precious.read_text() == "kept"


def test_only_a_rank_of_the_same_start_of_a_run_is_killed() -> None:
    ours = {"RANK": "1", "PHALANX_MAILBOX": "/tmp/a", "MASTER_PORT": "1"}
    start_of_ours = start_of_run(ours)
    with (
        _sleeping({}) as stranger,
        _sleeping(ours | {"MASTER_PORT": "2"}) as other_run,
        _sleeping(ours | {"RANK": ""}) as no_rank,
        _sleeping(ours) as rank,
    ):
        for process in (stranger, other_run, no_rank):
            assert not kill_rank(process.pid, born(process.pid), start_of_ours)
        assert not kill_rank(rank.pid, born(rank.pid) + 1, start_of_ours) and not kill_rank(rank.pid, 0, start_of_ours)
        assert not kill_rank(os.getppid(), born(os.getppid()), start_of_run(os.environ))
        assert [p.poll() for p in (stranger, other_run, no_rank, rank)] == [None] * 4
        assert kill_rank(rank.pid, born(rank.pid), start_of_ours) and rank.wait() == -signal.SIGKILL
        assert not kill_rank(rank.pid, 1, start_of_ours)


@contextmanager
def _sleeping(environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["/bin/sleep", "1000"], env=environment) as process:
        try:
            while environment and not Path(f"/proc/{process.pid}/environ").read_bytes():
                time.sleep(0.01)  # the kernel answers Popen before it has put the environment in place
            yield process
        finally:
            process.kill()


def test_a_beat_costs_microseconds_at_most() -> None:
    begun = time.perf_counter()
    for step in range(100_000):
        beat("forward", step)
    assert (time.perf_counter() - begun) / 100_000 < 5e-6
