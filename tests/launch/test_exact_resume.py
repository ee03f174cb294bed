"""A killed run resumes as if nothing had happened: to the last bit on as many ranks, to rounding on any number."""

import random
import statistics
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from tests.support.running import (
    DIGITS,
    FEW_EVALUATED,
    PHALANX,
    RESNET18,
    assert_bitwise,
    forked,
    is_saved,
    lines,
    phalanx,
    ranks,
    sample_ids,
    start,
    tensors,
    worst_difference,
)

# Augmentation, momentum, BatchNorm and dropout all carry state or draw numbers.
RECIPE = ["train.global_batch=32", "train.micro_batch=4", "train.log_every=1", "data.ledger=true", "data.workers=2"]
RECIPE += ["model.dropout=0.2", "data.augment.flip=0.5", FEW_EVALUATED]


# The command with all that it starts; and ranks as it makes them, of a network that has three buckets of gradients.
@pytest.mark.parametrize("count", [pytest.param(2, id="command", marks=pytest.mark.quick), pytest.param(4, id="ranks")])
def test_a_run_killed_at_a_random_step_and_resumed_is_the_unbroken_run(tmp_path: Path, count: int) -> None:
    by_command, steps = count == 2, 24 if count == 2 else 6
    length = [f"train.steps={steps}", "checkpoint.every_steps=2", "checkpoint.keep=10", "train.eval_every=3"]
    recipe = [DIGITS if by_command else RESNET18, "data.image_size=16", *RECIPE, *length]
    ranks(count, *recipe, "name=unbroken", cwd=tmp_path)
    killed = tmp_path / "runs/killed"
    die_after = random.randint(3, 5)  # any step between the first checkpoint and the end
    if by_command:
        running = start([*PHALANX, "train", *recipe, "name=killed", "--nproc", str(count)], tmp_path)
    else:
        running = forked(*recipe, "name=killed", count=count, cwd=tmp_path)
    running.until(lambda: len(lines(killed / "ledger/rank-0.jsonl")) >= die_after and is_saved(killed))
    running.kill_all()
    if by_command:
        phalanx("resume", "runs/killed", "--nproc", count, cwd=tmp_path)
    else:
        ranks(count, "--resume", "runs/killed", cwd=tmp_path)

    assert_bitwise(killed, tmp_path / "runs/unbroken")
    resumes = [e for e in lines(killed / "events.jsonl") if e["event"] == "resume"]
    assert len(resumes) == 1
    assert 0 < resumes[0]["step"] <= steps and die_after - resumes[0]["step"] <= 2 + 1
    assert sample_ids(killed) == sample_ids(tmp_path / "runs/unbroken")
    mine, theirs = lines(killed / "metrics.jsonl"), lines(tmp_path / "runs/unbroken/metrics.jsonl")
    assert [line["step"] for line in mine] == list(range(1, steps + 1))
    assert [_without_time(line) for line in mine] == [_without_time(line) for line in theirs]


def _without_time(line: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in line.items() if k != "time" and not k.startswith("perf/")}


def test_a_run_stopped_on_4_ranks_resumes_on_1_2_and_3(tmp_path: Path) -> None:
    # Rounding grows fast where BatchNorm sees few values: here each of its statistics is over at least 16.
    wide = ["model.stem=small", "data.image_size=16", "train.global_batch=16"]
    recipe = [DIGITS, *RECIPE, *wide, "dist.precision=fp64", "train.steps=5", "checkpoint.every_steps=100"]
    ranks(2, *recipe, "name=unbroken", cwd=tmp_path)
    ranks(4, *recipe, "name=stopped", "--stop-at", 2, cwd=tmp_path, expect=75)
    stopped = tmp_path / "runs/stopped"
    unbroken = tensors(tmp_path / "runs/unbroken")
    for count in (1, 2, 3):
        resized = tmp_path / f"runs/on-{count}"
        copytree(stopped, resized)
        ranks(count, "--resume", resized, cwd=tmp_path)
        assert sample_ids(resized) == sample_ids(tmp_path / "runs/unbroken")
        assert worst_difference(tensors(resized), unbroken) < 1e-10
        resize = next(e for e in lines(resized / "events.jsonl") if e["event"] == "resize")
        assert (resize["before"], resize["after"], resize["step"]) == (4, count, 2)


def test_exact_sums_make_a_resized_run_the_unbroken_run_to_the_last_bit(tmp_path: Path) -> None:
    recipe = [DIGITS, *RECIPE, "dist.reduce=exact", "train.steps=14", "checkpoint.every_steps=1", "checkpoint.keep=2"]
    recipe += ["train.global_batch=20", "optim.name=adamw", "train.clip_norm=1.0"]  # five micro-batches: no power of two
    ranks(2, *recipe, "name=unbroken", cwd=tmp_path)
    resized = tmp_path / "runs/resized"
    running = forked(*recipe, "name=resized", count=4, cwd=tmp_path)
    running.until(lambda: len(lines(resized / "ledger/rank-0.jsonl")) >= 3 and is_saved(resized))
    running.kill_all()
    ranks(3, "--resume", resized, "dist.strategy=fsdp", "--stop-at", 13, cwd=tmp_path, expect=75)
    phalanx("resume", resized, "dist.strategy=ddp", cwd=tmp_path)
    assert_bitwise(resized, tmp_path / "runs/unbroken")
    assert sample_ids(resized) == sample_ids(tmp_path / "runs/unbroken")


# Small, as three launches come together; a group of joint statistics spans two ranks.
SMALL = [DIGITS, "train.global_batch=24", "train.micro_batch=4", "train.log_every=1", "data.ledger=true", "data.workers=1"]
SMALL += ["model.stem=small", "data.image_size=16", "data.augment.flip=0.5", "train.clip_norm=1.0", "optim.name=adamw"]
SMALL += [FEW_EVALUATED]


@pytest.mark.parametrize("strategy", ["fsdp", "zero2"])
def test_a_killed_run_in_shards_and_half_precision_resumes_bitwise(tmp_path: Path, strategy: str) -> None:
    how = [f"dist.strategy={strategy}", "dist.precision=bf16", "dist.sync_bn=2"]
    recipe = [*SMALL, *how, "train.steps=12", "checkpoint.every_steps=2", "checkpoint.keep=10"]
    ranks(2, *recipe, "name=unbroken", cwd=tmp_path)
    killed = tmp_path / "runs/killed"
    running = forked(*recipe, "name=killed", count=2, cwd=tmp_path)
    running.until(lambda: len(lines(killed / "ledger/rank-0.jsonl")) >= 3 and is_saved(killed))
    running.kill_all()
    ranks(2, "--resume", killed, cwd=tmp_path)
    assert_bitwise(killed, tmp_path / "runs/unbroken")
    mine, theirs = (
        [_without_time(line) for line in lines(tmp_path / f"runs/{name}/metrics.jsonl")] for name in ("killed", "unbroken")
    )
    assert mine == theirs


def _typical_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    return statistics.median(worst_difference({n: one[n]}, {n: other[n]}) for n in other if n.endswith("@momentum_buffer"))


def test_a_run_changes_its_strategy_on_the_way(tmp_path: Path) -> None:
    """Started under ZeRO-3 on two ranks, gone on under FSDP2 on three, ended under DDP alone."""
    # Float32 rounding may put a value on the other side of a ReLU, which then shows; a lost step shows far more. Equality to
    # rounding is tests/dist/test_strategies.py's.
    gentle = ["optim.name=sgd", "optim.lr=1e-3", "schedule.name=constant", "schedule.warmup_steps=0"]
    recipe = [*SMALL, *gentle, "train.steps=3", "checkpoint.every_steps=100"]
    ranks(2, *recipe, "name=unbroken", cwd=tmp_path)
    phalanx("train", *recipe, "train.steps=2", "name=shorter", cwd=tmp_path)  # what a lost step would look like
    run, moved_off = tmp_path / "runs/moving", tmp_path / "runs/shorter"
    ranks(2, *recipe, "name=moving", "dist.strategy=zero3", "--stop-at", 1, cwd=tmp_path, expect=75)
    ranks(3, "--resume", run, "dist.strategy=fsdp", "--stop-at", 2, cwd=tmp_path, expect=75)
    phalanx("resume", run, "dist.strategy=ddp", cwd=tmp_path)
    unbroken = tensors(tmp_path / "runs/unbroken")
    assert _typical_difference(tensors(run), unbroken) < 0.1 < _typical_difference(tensors(moved_off), unbroken)
    assert sample_ids(run) == sample_ids(tmp_path / "runs/unbroken")
    facts = [e for e in lines(run / "events.jsonl") if e["event"] in ("start", "resume")]
    assert [(e["strategy"], e["world_size"]) for e in facts] == [("zero3", 2), ("fsdp", 3), ("ddp", 1)]


def test_a_longer_run_is_allowed_and_the_schedule_s_change_is_said(tmp_path: Path) -> None:
    small = [DIGITS, "train.global_batch=8", "train.micro_batch=4", "data.workers=0"]
    phalanx("train", *small, "train.steps=2", "name=a", cwd=tmp_path)
    done = phalanx("train", *small, "train.steps=2", "name=a", cwd=tmp_path)
    assert "all 2 steps are done" in done.output
    longer = phalanx("resume", "runs/a", "train.steps=4", cwd=tmp_path)
    assert "4 steps long instead of 2" in longer.output and "learning rate at step 2" in longer.output
    assert [e["step"] for e in lines(tmp_path / "runs/a/events.jsonl") if e["event"] == "done"] == [2, 4]
    # What was changed on the way is kept for the next time.
    assert "all 4 steps are done" in phalanx("resume", "runs/a", cwd=tmp_path).output
