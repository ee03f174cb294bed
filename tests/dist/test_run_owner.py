"""One trainer a run directory: who lives is not disturbed, who is gone is followed at once, and of two one wins."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import Stopped, UserError
from phalanx.dist.comm.collectives import barrier
from phalanx.dist.comm.process_group import World
from phalanx.dist.ownership import owner_record, run_owner
from phalanx.dist.ownership.owner_record import Owner
from phalanx.dist.ownership.run_owner import RunOwner, refuse_second
from phalanx.dist.processes.children import born
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.storage.durable_files import write_json
from phalanx.dist.storage.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path / "runs/one")
    found.path.mkdir(parents=True)
    found.identity.write_text("{}")
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life come, and are old, a hundred times as fast."""
    for module in (owner_record, run_owner):
        monkeypatch.setattr(module, "PERIOD_S", 0.05)
        monkeypatch.setattr(module, "STALE_S", 0.6)
    monkeypatch.setattr(run_owner, "_POLL_S", 0.01)


@contextmanager
def claimed(run: RunDirectory, over: Callable[[str], bool] = lambda job: False) -> Iterator[RunOwner]:
    with RunOwner(run, Ranks(), over) as owner:
        owner.claim()
        yield owner


def test_of_a_run_that_never_came_about_nothing_is_left(tmp_path: Path) -> None:
    with claimed(RunDirectory(tmp_path / "runs/deep/one")):
        pass
    assert list(tmp_path.iterdir()) == []


def left_by(run: RunDirectory, number: int = 1, **changes: object) -> Owner:
    """The claim of another trainer, as it would have left it."""
    folder = owner_record.folder_of(run)
    folder.mkdir(exist_ok=True)
    owner = replace(Owner.this_process(run, {}), **changes)  # type: ignore[arg-type]
    owner_record.beat_path(folder, owner.token).write_bytes(b"1\n")
    write_json(owner_record.claim_path(folder, number), owner.to_json())
    return owner


ELSEWHERE = {"host": "node7", "machine": "another kernel", "process": 4711, "born": 12}


def assert_free(run: RunDirectory) -> None:
    assert owner_record.newest_claim(run) is None and list(owner_record.folder_of(run).iterdir()) == []


def test_a_living_trainer_is_not_disturbed_and_is_named(run: RunDirectory) -> None:
    with claimed(run) as first:
        with pytest.raises(
            UserError, match=rf"process {os.getpid()} on {socket.gethostname()} .*for \d+ s .*remove .*\.trainer"
        ):
            RunOwner(run, Ranks()).claim()
        assert first.problem() is None
    assert_free(run)
    with claimed(run):
        pass


def test_a_second_trainer_is_refused_before_its_ranks_are_started(run: RunDirectory) -> None:
    refuse_second(run)  # nobody has it
    with subprocess.Popen(["sleep", "100"]) as other:
        there = replace(Owner.this_process(run), process=other.pid, born=born(other.pid))
        folder = owner_record.folder_of(run)
        folder.mkdir()
        owner_record.claim_path(folder, 1).write_text(json.dumps(there.to_json()))
        with pytest.raises(UserError, match=rf"process {other.pid} on .* already trains this run"):
            refuse_second(run)
        requeued = replace(there, job="7", restarts=-1)
        owner_record.claim_path(folder, 1).write_text(json.dumps(requeued.to_json()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_JOB_ID", "7")
            refuse_second(run)
        owner_record.claim_path(folder, 1).write_text(json.dumps(there.to_json()))
        other.kill()
        other.wait()
        refuse_second(run)
    assert len(list(folder.iterdir())) == 1


def claims_at_once(world: World, folder: Path, number: int) -> str:
    run = RunDirectory(folder / str(number))
    barrier(world)
    with RunOwner(run, world.ranks) as owner:
        try:
            owner.claim()
        except UserError as refused:
            barrier(world)
            return str(refused)
        barrier(world)
        assert owner.problem() is None
        return "mine"


def test_of_trainers_that_start_at_the_same_moment_exactly_one_wins(pool: Pool, tmp_path: Path) -> None:
    for number in range(12):
        said = pool.run(4, claims_at_once, tmp_path, number)
        assert said.count("mine") == 1 and sum("already trains this run" in word for word in said) == 3, said


KILLED = """
import os, sys, time
from pathlib import Path
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.dist.processes.children import born
from phalanx.dist.ownership.run_owner import RunOwner, refuse_second

RunOwner(RunDirectory(Path(sys.argv[1])), Ranks()).claim()
print("claimed", flush=True)
time.sleep(60)
"""


def test_a_trainer_that_was_killed_is_followed_at_once_even_if_nobody_took_notice_of_its_end(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_owner, "STALE_S", 10_000.0)  # whoever waits for it would wait for ever
    with subprocess.Popen([sys.executable, "-c", KILLED, str(run.path)], stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None and killed.stdout.readline() == b"claimed\n"
        with pytest.raises(UserError, match=f"process {killed.pid} on"):
            RunOwner(run, Ranks()).claim()
        killed.kill()
        with claimed(run):  # it is a zombie still
            pass
        killed.wait()
    assert_free(run)
    assert capsys.readouterr().err == ""  # nothing was waited for


def test_another_process_of_the_same_number_is_not_the_trainer(run: RunDirectory) -> None:
    left_by(run, process=os.getppid(), born=1)
    with claimed(run):
        pass
    assert_free(run)


def test_a_job_that_was_requeued_or_has_ended_is_followed_at_once(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    left_by(run, 3, **ELSEWHERE, job="77", restarts=1)
    with claimed(run) as owner:
        assert owner.problem() is None
    left_by(run, 5, **ELSEWHERE, job="76")
    with claimed(run, lambda job: job == "76"):
        pass
    assert_free(run)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("quick")
def test_a_trainer_elsewhere_is_refused_at_its_next_sign_of_life_and_followed_once_it_gives_none(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = left_by(run, **ELSEWHERE, started=time.time() - 7200)
    beat = owner_record.beat_path(owner_record.folder_of(run), other.token)
    calls = []

    def lives() -> bool:
        calls.append(1)
        if len(calls) == 3:
            beat.write_bytes(b"2\n")
        return False

    with pytest.raises(UserError, match="process 4711 on node7 already trains this run, for 2 h"):
        RunOwner(run, Ranks(), stopped=lives).claim()
    assert "waiting up to" in capsys.readouterr().err
    with pytest.raises(Stopped, match="stopped while waiting"):
        RunOwner(run, Ranks(), stopped=lambda: True).claim()
    with claimed(run):
        pass
    assert "no heartbeat from process 4711 on node7" in capsys.readouterr().err
    assert_free(run)


def test_a_trainer_elsewhere_whose_last_sign_of_life_is_old_is_followed_at_once(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = left_by(run, **ELSEWHERE)
    long_ago = time.time() - 2 * owner_record.STALE_S
    os.utime(owner_record.beat_path(owner_record.folder_of(run), other.token), (long_ago, long_ago))
    with claimed(run):
        pass
    assert capsys.readouterr().err == ""


def test_the_claim_that_came_with_a_copy_of_the_run_directory_does_not_count(run: RunDirectory) -> None:
    with claimed(run) as owner:
        copy = RunDirectory(run.path.parent / "copy")
        shutil.copytree(run.path, copy.path)
        with claimed(copy):
            pass
        assert owner.problem() is None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"[]", b'{"token": 3}', b'{"token": "../../x", "process": "1"}', b"{" * 10**5]
)
def test_a_claim_that_cannot_be_read_is_nobodys(run: RunDirectory, content: bytes) -> None:
    folder = owner_record.folder_of(run)
    folder.mkdir()
    owner_record.claim_path(folder, 4).write_bytes(content)
    with claimed(run):
        assert owner_record.numbers(folder) == [5]
    assert_free(run)


@pytest.mark.usefixtures("quick")
def test_a_trainer_notices_that_it_was_taken_over_and_leaves_the_other_one_alone(run: RunDirectory) -> None:
    with claimed(run) as first:
        shutil.rmtree(owner_record.folder_of(run))  # as its refusal says
        assert "was removed, which releases the run" in (first.problem() or "")
    with claimed(run) as first:
        other = left_by(run, 2, **ELSEWHERE)
        while not first.is_lost:  # its thread sees it too
            time.sleep(0.01)
        assert f"{other} has taken this run over" in (first.problem() or "")
    assert json.loads(owner_record.claim_path(owner_record.folder_of(run), 2).read_text()) == other.to_json()


def test_a_run_directory_that_was_moved_or_deleted_is_named_with_its_new_place(run: RunDirectory) -> None:
    with claimed(run) as owner:
        run.path.rename(run.path.parent / "two")
        assert owner.problem() == (
            f"{run.path}: the run directory was moved to {run.path.parent / 'two'} during training; "
            "nothing more is written there."
        )
    assert not run.path.exists()
    shutil.move(run.path.parent / "two", run.path)
    with claimed(run) as owner:
        shutil.rmtree(run.path)
        assert f"{run.path}: the run directory was deleted" in (owner.problem() or "")
    assert not run.path.exists()
    run.path.mkdir()
    with claimed(run) as owner:
        run.path.rename(run.path.parent / "three")
        run.path.mkdir()  # somebody starts anew under the name
        with claimed(run):
            assert "has taken this run over" in (owner.problem() or "")


def test_without_links_a_claim_is_made_all_the_same(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    with claimed(run), pytest.raises(UserError, match="already trains this run"):
        RunOwner(run, Ranks()).claim()
    assert_free(run)
