"""kill -9 at random instants while a checkpoint is saved every step: there is always a whole one, and nothing is lost.

Kills of one of two ranks, at start-up and later: `benchmarks/kills.py`, which `tests/benchmarks/test_smoke.py` runs shortened.
"""

import random
import time
from pathlib import Path

import pytest

from phalanx.dist.checkpoint import reader
from tests.support.running import DIGITS, FEW_EVALUATED, PHALANX, assert_bitwise, lines, phalanx, sample_ids, start

RECIPE = [DIGITS, "train.global_batch=8", "train.micro_batch=4", "data.workers=0", "data.ledger=true", "train.log_every=1"]
RECIPE += ["train.steps=14", "checkpoint.every_steps=1", "checkpoint.keep=2", FEW_EVALUATED]


@pytest.mark.slow
@pytest.mark.parametrize(("asynchronous", "kills"), [("true", 3), ("false", 2)])
def test_kills_of_the_command_while_saving_every_step_lose_nothing(tmp_path: Path, asynchronous: str, kills: int) -> None:
    killed, checkpoints = tmp_path / "runs/killed", tmp_path / "runs/killed/checkpoints"
    recipe = [*RECIPE, f"checkpoint.asynchronous={asynchronous}"]
    for _ in range(kills):
        running = start([*PHALANX, "train", *recipe, "name=killed"], tmp_path)
        before = len(_saves(killed))
        running.until(lambda before=before: len(_saves(killed)) > before + 1)  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.15))  # about the time of a step and its save
        running.kill_all()
        finished = _saves(killed)[-1]
        newest, skipped = reader.newest_valid(checkpoints)
        assert newest is not None and not skipped
        assert int(newest.name.removeprefix("step-")) >= finished
    phalanx("train", *recipe, "name=killed", cwd=tmp_path)
    phalanx("train", *recipe, "name=unbroken", cwd=tmp_path)
    assert_bitwise(killed, tmp_path / "runs/unbroken")
    assert sample_ids(killed) == sample_ids(tmp_path / "runs/unbroken")
    assert [line["step"] for line in lines(killed / "metrics.jsonl")] == list(range(1, 15))
    assert not [p for p in checkpoints.iterdir() if not p.name.startswith("step-")]


def _saves(run_directory: Path) -> list[int]:
    """The steps of all saves that had finished, in the order of time."""
    return [e["step"] for e in lines(run_directory / "events.jsonl") if e["event"] == "save"]
