"""Two trainers never share a run directory, and a trainer never writes where its run no longer is."""

import json
import signal
from pathlib import Path

from tests.support.running import DIGITS, FEW_EVALUATED, Command, forked, lines, phalanx, ranks

RECIPE = [DIGITS, "train.global_batch=16", "train.micro_batch=8", "train.log_every=1", "data.workers=0", "model.stem=small"]
RECIPE += ["data.image_size=16", "dist.device=cpu", FEW_EVALUATED, "name=one", "train.steps=100000"]


def _until_step(running: Command, run_directory: Path, step: int) -> None:
    running.until(lambda: any(line["step"] >= step for line in lines(run_directory / "metrics.jsonl")))


def test_a_second_trainer_is_refused_a_killed_one_followed_and_a_run_that_was_moved_away_ends(tmp_path: Path) -> None:
    run_directory, moved = tmp_path / "runs/one", tmp_path / "runs/moved"
    first = forked(*RECIPE, "checkpoint.every_steps=1", cwd=tmp_path, count=1)
    _until_step(first, run_directory, 3)
    before = (run_directory / "config.yaml").read_bytes()
    second = ranks(2, *RECIPE, "train.log_every=7", cwd=tmp_path, expect=2)
    assert second.errors.count("already trains this run") == 1 and f"process {first.process.pid} on" in second.errors
    phalanx("resume", "runs/one", "--nproc", "1", cwd=tmp_path, expect=2)
    assert (run_directory / "config.yaml").read_bytes() == before and not (run_directory / "errors").exists()

    first.signal(signal.SIGKILL)
    first.wait()
    reached = max(line["step"] for line in lines(run_directory / "metrics.jsonl"))
    third = forked("--resume", "runs/one", cwd=tmp_path, count=2)
    _until_step(third, run_directory, reached + 1)
    run_directory.rename(moved)
    assert third.wait() == 1 and "Traceback" not in third.errors
    assert third.errors.count("phalanx:") == 1 and f"runs/one: the run directory was moved to {moved}" in third.errors
    assert sorted(path.name for path in run_directory.parent.iterdir()) == ["moved"]
    ranks(1, "--resume", "runs/moved", f"train.steps={reached + 2}", cwd=tmp_path)
    assert json.loads((moved / "run.json").read_text())["run"].startswith("one-")
