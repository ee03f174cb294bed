"""What `make quickstart` does: train the digits on two processes, evaluate, say where the results are."""

import json
import re
from pathlib import Path

import pytest

from tests.support.running import ROOT, lines, phalanx


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_quick_start_learns_the_digits(tmp_path: Path, precision: str) -> None:
    """In half of its epochs; in bf16, which a CPU computes slowly, in fewer."""
    changes = [f"dist.precision={precision}", f"train.epochs={5 if precision == 'fp32' else 3}"]
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = re.findall(r"\$\(BIN\)/phalanx (.*)", (ROOT / "Makefile").read_text())
    assert [command.split()[0] for command in commands] == ["train", "evaluate"]
    phalanx(*commands[0].split(), *changes, cwd=tmp_path)
    evaluated = json.loads(phalanx(*commands[1].split(), "--json", cwd=tmp_path).output)
    assert evaluated["top1"] >= (0.97 if precision == "fp32" else 0.9)
    last = lines(tmp_path / "runs/quickstart/metrics.jsonl")[-1]
    assert last["step"] == evaluated["step"] and last["val/top1"] == evaluated["top1"]
