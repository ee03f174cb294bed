"""Runs with averages of weights and with plateaus: killed and resumed, they are the unbroken ones."""

import json
from pathlib import Path

from tests.support.running import DIGITS, FEW_EVALUATED, assert_bitwise, forked, is_saved, lines, phalanx, ranks, tensors

COMMON = ["train.global_batch=32", "train.micro_batch=8", "train.log_every=1", "data.ledger=true", FEW_EVALUATED]
SWA = [*COMMON, "train.steps=8", "train.swa_start=0.4", "train.swa_every=2", "train.swa_batches=2", "train.eval_every=4"]


def test_an_averaged_run_killed_and_resumed_is_the_unbroken_one(tmp_path: Path) -> None:
    saves = ["checkpoint.every_steps=1", "checkpoint.keep=10"]
    ranks(2, DIGITS, *SWA, *saves, "name=unbroken", cwd=tmp_path)
    killed = tmp_path / "runs/killed"
    running = forked(DIGITS, *SWA, *saves, "name=killed", count=2, cwd=tmp_path)
    running.until(lambda: len(lines(killed / "ledger/rank-0.jsonl")) >= 4 and is_saved(killed))
    running.kill_all()
    ranks(2, "--resume", killed, cwd=tmp_path)
    assert_bitwise(killed, tmp_path / "runs/unbroken")
    ends = [lines(tmp_path / f"runs/{name}/metrics.jsonl")[-1] for name in ("killed", "unbroken")]
    assert ends[0]["val/loss"] == ends[1]["val/loss"]
    # An evaluation of the checkpoint sees the averaged weights and their statistics.
    seen = json.loads(phalanx("evaluate", "runs/unbroken", "--json", cwd=tmp_path).output.splitlines()[-1])
    assert seen["loss"] == ends[1]["val/loss"]
    held = tensors(tmp_path / "runs/unbroken", 8)
    assert any(name.endswith("@ema") for name in held)


PLATEAU = [*COMMON, "train.steps=9", "train.eval_every=1", "schedule.name=plateau", "schedule.metric=val/loss"]
PLATEAU += ["schedule.patience=0", "schedule.threshold=0.9", "schedule.gamma=0.5", "schedule.warmup_steps=0"]


def test_a_plateau_lowers_the_rate_at_the_same_step_after_a_kill(tmp_path: Path) -> None:
    """The best loss can hardly be a tenth of the one before, so that nearly every evaluation lowers the rate."""
    saves = ["checkpoint.every_steps=1", "checkpoint.keep=20"]
    ranks(1, DIGITS, *PLATEAU, *saves, "name=unbroken", cwd=tmp_path)
    killed = tmp_path / "runs/killed"
    running = forked(DIGITS, *PLATEAU, *saves, "name=killed", count=1, cwd=tmp_path)
    # Between an evaluation and the next step, or wherever it is.
    running.until(
        lambda: len([line for line in lines(killed / "metrics.jsonl") if "val/loss" in line]) >= 3 and is_saved(killed)
    )
    running.kill_all()
    ranks(1, "--resume", killed, cwd=tmp_path)
    assert_bitwise(killed, tmp_path / "runs/unbroken")
    rates = [[line["train/lr"] for line in lines(tmp_path / f"runs/{name}/metrics.jsonl")] for name in ("killed", "unbroken")]
    assert rates[0] == rates[1] and rates[0][-1] <= rates[0][0] / 16
    assert any(event["event"] == "plateau" for event in lines(killed / "events.jsonl"))


def test_a_metric_that_is_not_measured_is_refused_before_the_first_step(tmp_path: Path) -> None:
    said = phalanx("train", DIGITS, *PLATEAU, "schedule.metric=val/ap", "name=refused", cwd=tmp_path, expect=2).errors
    assert "schedule.metric=val/ap: the task measures" in said and not (tmp_path / "runs/refused/checkpoints").exists()
