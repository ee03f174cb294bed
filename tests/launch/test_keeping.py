"""What a run keeps, and what it does where the disk has no room, seen by its user."""

import subprocess
from pathlib import Path

from tests.support.running import RESNET18, disk_in_memory, lines, phalanx, tensors

SMALL = [RESNET18, "train.global_batch=16", "train.micro_batch=8", "data.workers=0", "train.log_every=1"]


def test_the_best_checkpoint_is_saved_at_once_and_kept(tmp_path: Path) -> None:
    keeping = ["checkpoint.best=val/top1", "checkpoint.keep=1", "checkpoint.keep_every=3", "checkpoint.every_steps=3"]
    phalanx("train", *SMALL, *keeping, "train.steps=7", "train.eval_every=2", "name=a", cwd=tmp_path)
    run = tmp_path / "runs/a"
    values = {line["step"]: line["val/top1"] for line in lines(run / "metrics.jsonl") if "val/top1" in line}
    assert list(values) == [2, 4, 6, 7]
    best = max(values, key=lambda step: (values[step], -step))
    kept = sorted(int(p.name.removeprefix("step-")) for p in (run / "checkpoints").iterdir())
    assert kept == sorted({3, 6, 7, best})
    saved = {e["step"] for e in lines(run / "events.jsonl") if e["event"] == "save"}
    assert saved == {2, 3, 6, 7} | {s for s in values if all(values[s] > values[t] for t in values if t < s)}
    # A resumed run knows what was best before.
    phalanx("resume", run, "train.steps=8", cwd=tmp_path)
    assert best in {int(p.name.removeprefix("step-")) for p in (run / "checkpoints").iterdir()}
    refused = phalanx("train", *SMALL, "checkpoint.best=val/miou", "train.steps=1", "name=b", cwd=tmp_path, expect=2)
    assert "checkpoint.best=val/miou: the task measures val/loss, val/top1, val/top5, val/top1_mean_class" in refused.errors
    assert "Traceback" not in refused.errors and not lines(tmp_path / "runs/b/metrics.jsonl")  # before the first step


def test_a_full_disk_keeps_what_is_there_and_the_run_continues_once_there_is_room(tmp_path: Path) -> None:
    """A checkpoint of this ResNet-18 is 90 MB, the disk 150 MB."""
    with disk_in_memory(tmp_path / "disk", 150) as disk:
        full = phalanx(
            "train", *SMALL, f"runs={disk}", "name=a", "train.steps=4", "checkpoint.every_steps=2", cwd=tmp_path, expect=1
        )
        assert "no checkpoint was written" in full.output and "are free on the disk" in full.output
        assert "step 4: the checkpoint could not be written. The last good checkpoint is" in full.errors
        assert "Traceback" not in full.errors
        assert [p.name for p in (disk / "a/checkpoints").iterdir()] == ["step-00000002"]
        subprocess.run(["mount", "-o", "remount,size=400m", disk], check=True)
        gone_on = phalanx("resume", disk / "a", cwd=tmp_path)
        assert "step 2" in gone_on.output
        assert tensors(disk / "a", 4)
