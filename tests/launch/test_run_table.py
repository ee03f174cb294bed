"""`phalanx status` of all runs in a table, and `phalanx compare`: what runs have logged, as it is."""

import csv
import json
import time
from pathlib import Path

import pytest

from phalanx.configs.load import load
from phalanx.dist.ownership.run_owner import RunOwner
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.storage.run_directory import Events, RunDirectory
from phalanx.launch.main import main
from phalanx.slurm.status import status
from tests.support.running import DIGITS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(name: str, *overrides: str) -> RunDirectory:
    config = load([str(DIGITS)], [f"name={name}", "train.steps=100", "checkpoint.best=val/top1", *overrides])
    run = RunDirectory.of(config)
    run.create(config, 1)
    return run


def _logged(run: RunDirectory, first: float, lines: int, top1: float, step_s: float = 0.5) -> None:
    """A line every ten steps; the third one comes late, after an evaluation."""
    with run.metrics.open("a") as file:
        for number in range(1, lines + 1):
            when = first + 10 * step_s * number + (60 if number >= 3 else 0)
            line = {"step": 10 * number, "time": when, "train/loss": 2.0 / number, "train/lr": 0.1}
            file.write(json.dumps(line | ({"val/top1": top1 / number} if number != 2 else {})) + "\n")


def _happened(run: RunDirectory, *events: str) -> None:
    written = Events(run)
    for event in events:
        written.write(event, 0, steps=80)
    written.close()


def test_every_run_has_a_line_and_what_it_says_follows_from_its_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time()
    done, sweep = _run("done"), _run("first", "runs=runs/sweep")
    _happened(done, "start", "resume", "resume", "done")
    _logged(done, now - 4000, 8, 0.75)
    _logged(sweep, now - 90, 4, 0.5)
    (here / "runs/notes").mkdir()
    with RunOwner(sweep, Ranks()) as owner:
        owner.claim()
        assert main(["status", "--sort", "name", "--json"]) == 0
        ended, alive = json.loads(capsys.readouterr().out)
        assert main(["status", "--sort", "step"]) == 0
        head, first, second = capsys.readouterr().out.splitlines()
    assert (alive["name"], alive["state"], alive["step"], alive["steps"]) == ("sweep/first", "RUNNING", 40, 100)
    assert alive["rate"] == pytest.approx(2, rel=1e-3) and alive["left_s"] == pytest.approx(30, rel=1e-3)
    assert (alive["metric"], alive["best"], alive["best_step"], alive["restarts"]) == ("val/top1", 0.5, 10, 0)
    assert (ended["name"], ended["state"], ended["steps"], ended["restarts"]) == ("done", "COMPLETED", 80, 2)
    assert ended["left_s"] is None and ended["rate"] == pytest.approx(2, rel=1e-3)
    assert head.split()[:4] == ["run", "state", "step", "of"] and second.startswith("sweep/first  RUNNING")
    assert "val/top1 0.75" in first and first.endswith(" ago")


def test_the_table_is_sorted_as_asked_and_may_be_csv(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, top1 in (("b", 0.1), ("a", 0.9), ("c", 0.5)):
        _logged(_run(name), time.time() - 5000, 2, top1)
    for order, expected in (("name", "abc"), ("best", "acb")):
        assert main(["status", "runs", "--csv", "--sort", order]) == 0
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        assert "".join(row["name"] for row in rows) == expected and rows[0]["step"] == "20" and rows[0]["left_s"] == ""
    assert main(["status", "runs/a", "--csv"]) == 0
    assert [row["best"] for row in csv.DictReader(capsys.readouterr().out.splitlines())] == ["0.9"]


def test_a_run_that_lives_but_logs_nothing_is_stalled(here: Path) -> None:
    run = _run("slow")
    with RunOwner(run, Ranks()) as owner:
        owner.claim()
        began = time.time()
        assert status(run).state == "RUNNING"
        for silent, state in ((100, "RUNNING"), (130, "STALLED")):
            run.metrics.write_text("")
            _backdated(run, began - silent - 100)
            _logged(run, began - silent - 10, 2, 0.5)
            found = status(run)
            assert found.state == state, silent
        assert "has logged nothing for 130 s" in str(found.reason)


def _backdated(run: RunDirectory, started: float) -> None:
    """Lets the trainer have claimed the run earlier."""
    (claim,) = (run.path / ".trainer").glob("claim-*.json")
    claim.write_text(json.dumps(json.loads(claim.read_text()) | {"started": started}))


def test_a_folder_without_runs_is_said_to_be_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2 and "runs: there is no such folder" in capsys.readouterr().err
    (here / "runs").mkdir()
    assert main(["status"]) == 0 and capsys.readouterr().out == "runs: there are no runs yet\n"


def test_what_runs_differ_in_and_what_came_of_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _logged(_run("one", "optim.lr=0.1"), 0, 4, 0.5)
    _logged(_run("two", "optim.lr=0.2"), 0, 8, 0.8)
    assert main(["compare", "runs/one", "runs/two", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"] == {"optim.lr": {"runs/one": 0.1, "runs/two": 0.2}}
    assert found["metrics"]["train/loss"]["runs/two"] == {"best": 0.25, "best_step": 80, "last": 0.25, "last_step": 80}
    assert found["metrics"]["val/top1"]["runs/one"] == {"best": 0.5, "best_step": 10, "last": 0.125, "last_step": 40}
    assert main(["compare", "runs/one", "runs/two", "--plot", "loss.png"]) == 0
    out = capsys.readouterr().out
    assert "optim.lr  0.1       0.2" in out and (here / "loss.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["runs/one"], "at least two different runs"),
        (["runs/one", "runs/one"], "at least two different runs"),
        (["runs/one", "runs/nothing"], "there is no run here"),
        (["runs/one", "runs/two", "--metric", "val/top1"], "Give --plot FILE.png too"),
        (["runs/one", "runs/two", "--metric", "val/top9", "--plot", "x.png"], "no run has logged it"),
        (["runs/one", "runs/two", "--plot", "nowhere/x.png"], "Name a file that can be written"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(
    here: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        _logged(_run(name), 0, 2, 0.5)
    assert main(["compare", *arguments]) == 2
    assert sentence in capsys.readouterr().err and not (here / "x.png").exists()
