"""What `make quickstart` does: train the digits on two processes, evaluate, say where the results are."""

import json
import re
from pathlib import Path

import pytest

from tests.support.running import ROOT, lines, phalanx, ranks


@pytest.mark.slow
def test_the_quick_start_learns_the_digits(tmp_path: Path) -> None:
    """In three of its ten epochs; by forked ranks, as the launcher has tests of its own."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    commands = re.findall(r"\$\(BIN\)/phalanx (.*)", (ROOT / "Makefile").read_text())
    assert [command.split()[0] for command in commands] == ["train", "evaluate"]
    verb, *recipe, nproc, count = commands[0].split()
    assert (verb, nproc) == ("train", "--nproc")
    ranks(int(count), *recipe, "train.epochs=3", cwd=tmp_path)
    evaluated = json.loads(phalanx(*commands[1].split(), "--json", cwd=tmp_path).output)
    assert evaluated["top1"] >= 0.95
    last = lines(tmp_path / "runs/quickstart/metrics.jsonl")[-1]
    assert last["step"] == evaluated["step"] and last["val/top1"] == evaluated["top1"]
