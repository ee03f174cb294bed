"""`phalanx find-lr` and `phalanx cross-validate`."""

import json
import math
from pathlib import Path

import pytest

from phalanx.train.optim.range_test import Measured, suggestion
from tests.support.running import DIGITS, lines, phalanx


def test_the_suggestion_is_where_the_loss_falls_fastest() -> None:
    """A loss that falls around 0.01 and explodes at 1."""
    rates = [10 ** (-6 + 7 * place / 199) for place in range(200)]
    found = [Measured(rate, 2 / (1 + (rate / 0.01) ** 2) + (rate / 0.5) ** 4) for rate in rates]
    says = suggestion(found)
    assert 0.005 < says.steepest < 0.06 and says.steepest < says.lowest < 0.6
    assert max(one.loss for one in says.smoothed) < 4 * 2.1 and len(says.smoothed) < len(found)


def test_a_rate_is_found_and_nothing_is_left(tmp_path: Path) -> None:
    said = phalanx("find-lr", DIGITS, "--steps", "24", "--plot", "rates.png", cwd=tmp_path).output.splitlines()
    assert said[0].startswith("23 steps, learning rate 1e-06 to ") and said[-1].startswith("optim.lr=")
    assert 1e-6 <= float(said[-1].partition("=")[2]) <= 10
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG") and not (tmp_path / "runs").exists()
    refused = phalanx("find-lr", DIGITS, "--steps", "3", cwd=tmp_path, expect=2).errors
    assert "--steps must be at least 10" in refused
    broken = phalanx("find-lr", DIGITS, "data.root=nowhere", "data.name=image_folder", cwd=tmp_path, expect=2).errors
    assert "the run failed:" in broken and "nowhere" in broken and "Traceback" not in broken


def test_every_fold_is_trained_once_and_their_mean_told(tmp_path: Path) -> None:
    short = ["train.steps=4", "data.val_fraction=null", "data.stratify=true"]
    said = phalanx("cross-validate", DIGITS, *short, "--folds", "2", cwd=tmp_path).output
    told = json.loads((tmp_path / "runs/digits-folds.json").read_text())["metrics"]["val/top1"]
    ends = [lines(tmp_path / f"runs/digits-fold-{number}/metrics.jsonl")[-1]["val/top1"] for number in (1, 2)]
    assert told["folds"] == ends and told["mean"] == pytest.approx(sum(ends) / 2)
    assert told["deviation"] == pytest.approx(abs(ends[0] - ends[1]) / math.sqrt(2))
    assert "val/top1" in said and "deviation" in said
    again = phalanx("cross-validate", DIGITS, *short, "--folds", "2", cwd=tmp_path)
    assert again.output.splitlines()[-1].endswith("digits-folds.json")
    assert len([e for e in lines(tmp_path / "runs/digits-fold-1/events.jsonl") if e["event"] == "start"]) == 1
    assert "Give at least 2" in phalanx("cross-validate", DIGITS, "--folds", "1", cwd=tmp_path, expect=2).errors
    both = phalanx("cross-validate", DIGITS, "data.val_fraction=0.2", cwd=tmp_path, expect=2).errors
    assert "data.fold and data.val_fraction are set for each fold here" in both
