"""What was trained is on the disk before anything can fail, and a command that has nothing to do changes nothing."""

from pathlib import Path

import pytest

from phalanx.dist.checkpoint import directory, manifest
from tests.support.running import DIGITS, forked, lines, ranks

SMALL = [DIGITS, "train.global_batch=16", "train.micro_batch=8", "data.workers=0", "data.image_size=8", "data.ledger=true"]
SMALL += ["name=a", "checkpoint.every_steps=null"]

# Its second evaluation, and so the first after the rehearsal, fails until somebody has mended it.
OWN_TASK = """
from pathlib import Path
from phalanx.train.tasks.classification import Classification

class Breaks(Classification):
    asked = 0
    def metrics(self, sums):
        self.asked += 1
        if self.asked > 1 and not Path("mended").exists():
            raise ZeroDivisionError("no metrics")
        return super().metrics(sums)

class NeverDefined(Classification):
    def metrics(self, sums):
        if sums["samples"] < 100:
            raise ValueError("only one class present")
        return super().metrics(sums)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the reports of commands that were refused."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "errors"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def saves(run: Path) -> list[int]:
    return [e["step"] for e in lines(run / "events.jsonl") if e["event"] == "save"]


@pytest.mark.parametrize("best", ["null", "val/top1"])
def test_a_last_evaluation_that_fails_costs_nothing_and_a_resume_makes_up_for_it(tmp_path: Path, best: str) -> None:
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    own = ["task.name=./my_task.py:Breaks", "train.steps=3", f"checkpoint.best={best}"]
    failed = ranks(2, *SMALL, *own, cwd=tmp_path, expect=1)
    run = tmp_path / "runs/a"
    assert "ZeroDivisionError: no metrics" in failed.errors and saves(run) == [3]
    trained = (run / "ledger/rank-0.jsonl").read_bytes()

    (tmp_path / "mended").touch()
    ranks(1, "--resume", "runs/a", cwd=tmp_path)
    assert (run / "ledger/rank-0.jsonl").read_bytes() == trained
    assert [line["step"] for line in lines(run / "metrics.jsonl")] == [1, 3]
    last = lines(run / "metrics.jsonl")[-1]
    assert "train/loss" in last and "val/top1" in last
    stored = manifest.read(directory.step_directory(run / "checkpoints", 3))
    assert stored.metrics == {name: value for name, value in last.items() if name.startswith("val/")}
    assert lines(run / "events.jsonl")[-1]["event"] == "done"


def test_a_run_saves_by_time_and_a_command_with_nothing_to_do_changes_nothing(tmp_path: Path) -> None:
    ranks(2, *SMALL, "train.steps=3", "checkpoint.every_minutes=1e-9", cwd=tmp_path)
    run = tmp_path / "runs/a"
    assert saves(run) == [1, 2, 3]
    before = contents(run)
    said = ranks(1, *SMALL, "train.steps=2", "checkpoint.keep=7", cwd=tmp_path).output
    assert "the run is at step 3 already, past its 2 steps" in said
    assert "nothing was changed: config.yaml does not get train.steps=2 (3 in config.yaml)" in said
    assert "checkpoint.keep=7 (3 in config.yaml)" in said and contents(run) == before
    refused = ranks(1, *SMALL, "train.steps=4", "--stop-at", "3", cwd=tmp_path, expect=2)
    assert "--stop-at 3: the run is at step 3 already" in refused.errors and contents(run) == before

    longer = ranks(1, *SMALL, "train.steps=4", "checkpoint.every_minutes=null", cwd=tmp_path).output
    changed = "train.steps=4 (3 in config.yaml), checkpoint.every_minutes=null (1e-09 in config.yaml)"
    assert f"changed from now on: {changed}" in longer
    assert saves(run) == [1, 2, 3, 4]


def test_metrics_that_are_not_defined_on_a_few_samples_do_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    (tmp_path / "my_task.py").write_text(OWN_TASK)
    said = ranks(1, *SMALL, "task.name=./my_task.py:NeverDefined", "train.steps=1", cwd=tmp_path).output
    assert "the metrics of a few validation samples could not be computed (ValueError: only one class present)" in said


def test_of_a_new_run_that_is_refused_before_its_first_step_nothing_is_left(tmp_path: Path) -> None:
    refused = forked(*SMALL, "train.steps=2", "checkpoint.best=val/miou", cwd=tmp_path, count=1)
    assert refused.wait() == 2
    assert refused.errors.count("phalanx: ") == 1 and "the task measures" in refused.errors
    assert not (tmp_path / "runs/a").exists()
    # so that another experiment may have the name
    assert forked(*SMALL, "train.steps=1", "seed=9", cwd=tmp_path, count=1).wait() == 0
    assert forked(*SMALL, "train.steps=2", "checkpoint.best=val/miou", "seed=9", cwd=tmp_path, count=1).wait() == 2
    assert (tmp_path / "runs/a/run.json").exists() and saves(tmp_path / "runs/a") == [1]
