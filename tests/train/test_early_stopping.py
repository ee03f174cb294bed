"""A run ends when nothing gets better any more: at the same step whether it was interrupted or not, on any number of ranks."""

from pathlib import Path

from phalanx.dist.checkpoint import directory, manifest
from tests.support.running import DIGITS, assert_bitwise, lines, phalanx, ranks

# With this learning rate only BatchNorm's statistics move: the loss is better at times, and soon no more.
RECIPE = [DIGITS, "train.global_batch=16", "train.micro_batch=8", "data.workers=0", "train.log_every=1", "train.steps=30"]
RECIPE += ["optim.lr=1e-9", "train.eval_every=1", "checkpoint.best=val/loss", "train.patience=2", "dist.reduce=exact"]
RECIPE += ["data.image_size=8"]


def ended_at(losses: list[float], patience: int) -> int:
    """The step after which so many losses in a row were no better."""
    for step in range(1, len(losses) + 1):
        best = min(range(step), key=lambda i: losses[i])
        if step - 1 - best >= patience:
            return step
    raise AssertionError(f"it should have gone on: {losses}")


def test_a_run_ends_at_the_same_step_interrupted_or_not(tmp_path: Path) -> None:
    shown = phalanx("train", *RECIPE, "name=whole", cwd=tmp_path)
    whole = tmp_path / "runs/whole"
    losses = [line["val/loss"] for line in lines(whole / "metrics.jsonl")]
    last = len(losses)
    assert last == ended_at(losses, 2) and 3 <= last < 30
    assert f"stopped early at step {last} of 30: val/loss has not been better than" in shown.output
    events = lines(whole / "events.jsonl")
    (early,) = [e for e in events if e["event"] == "early_stop"]
    assert (early["step"], early["metric"], early["best"]) == (last, "val/loss", min(losses))
    assert [e["step"] for e in events if e["event"] == "save"][-1] == last and events[-1]["event"] == "done"

    # Interrupted just where an evaluation was due, and one before the end: what counts has to be remembered.
    phalanx("train", *RECIPE, "name=broken", "--stop-at", str(last - 1), cwd=tmp_path, expect=75)
    ranks(2, "--resume", "runs/broken", cwd=tmp_path)
    broken = tmp_path / "runs/broken"
    assert_bitwise(broken, whole)
    figures = [
        {k: v for k, v in line.items() if k != "time" and not k.startswith("perf/")} for line in lines(broken / "metrics.jsonl")
    ]
    assert figures == [
        {k: v for k, v in line.items() if k != "time" and not k.startswith("perf/")} for line in lines(whole / "metrics.jsonl")
    ]
    stored = manifest.read(directory.step_directory(broken / "checkpoints", last - 1))
    assert stored.metrics["val/loss"] == losses[last - 2]

    again = phalanx("resume", "runs/broken", cwd=tmp_path)
    assert f"stopped early at step {last}: val/loss" in again.output and "raise train.patience to train further" in again.output
    phalanx("resume", "runs/broken", "train.patience=20", f"train.steps={last + 1}", cwd=tmp_path)
    assert lines(broken / "metrics.jsonl")[-1]["step"] == last + 1
