"""Detection by its commands: the same bits on any number of ranks and through a kill, evaluation, predictions."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.data.coco_shapes import write
from tests.support.running import DIGITS, assert_bitwise, forked, is_saved, lines, phalanx, ranks

DATA = ["data.name=shapes", "data.options={target: boxes, size: 64, train: 40, val: 4}"]
COMMON = [DIGITS, "data.augment.shift=0", "data.augment.flip=0.5", "data.ledger=true"]
COMMON += ["optim.name=adamw", "optim.lr=1e-3", "train.log_every=1", "checkpoint.every_steps=2", "data.workers=1"]
MOSAIC = [
    "data.image_size=64",
    "data.augment.sizes=[64,96]",
    "data.augment.mosaic=0.7",
    "data.augment.mosaic_mixup=0.5",
    "dist.reduce=exact",
]
YOLO = [*COMMON, *DATA, *MOSAIC, "task.name=detection", "model.name=yolov8n", "train.global_batch=12", "train.micro_batch=4"]
MASKS = [
    *COMMON,
    *DATA,
    "task.name=instance",
    "model.name=mask_rcnn",
    "model.backbone=./resnet18.py:Backbone",
    "data.augment.copy_paste=0.5",
]
# Few pixels and samples, and narrow heads.
MASKS += [
    "data.image_size=32",
    "data.augment.sizes=[32,48]",
    "model.options.anchors=[8,16,32,64,128]",
    "model.options.hidden=64",
    "model.options.samples=32",
    "model.options.mask_channels=[32]",
    "train.global_batch=4",
    "train.micro_batch=2",
    "dist.reduce=exact",
    "evaluate.score=0",
    "evaluate.detections=5",
]

GROUPED = [
    *COMMON,
    "data.name=coco",
    "data.root=shapes",
    "data.fit=short_side",
    "data.aspect_groups=true",
    "data.augment.sizes=[32,48]",
]
GROUPED += [
    "data.image_size=[32,64]",
    "task.name=detection",
    "model.name=fcos",
    "model.backbone=./resnet18.py:Backbone",
    "dist.reduce=exact",
]
GROUPED += ["train.global_batch=6", "train.micro_batch=2"]


def _taken(run_directory: Path) -> list[list[object]]:
    """Of each step the samples, and those that are in their mosaics besides, in the order of the ranks."""
    steps: dict[int, list[object]] = {}
    for path in sorted((run_directory / "ledger").iterdir()):
        for line in lines(path):
            steps.setdefault(line["step"], []).extend(zip(line["ids"], map(tuple, line["others"]), strict=True))
    return [steps[step] for step in sorted(steps)]


@pytest.mark.slow
def test_mosaics_are_the_same_on_any_number_of_ranks_and_through_a_kill(tmp_path: Path) -> None:
    length = ["train.steps=5"]
    for count in (1, 3):
        ranks(count, *YOLO, *length, f"name=on-{count}", cwd=tmp_path)
    one, three, killed = (tmp_path / f"runs/{name}" for name in ("on-1", "on-3", "killed"))
    assert_bitwise(one, three)
    assert _taken(one) == _taken(three) and any(others for step in _taken(one) for _, others in step)  # type: ignore[misc]
    running = forked(*YOLO, *length, "name=killed", count=2, cwd=tmp_path)
    running.until(lambda: len(lines(killed / "ledger/rank-0.jsonl")) >= 3 and is_saved(killed))
    running.kill_all()
    ranks(2, "--resume", killed, cwd=tmp_path)
    assert_bitwise(killed, one)
    assert _taken(killed) == _taken(one)


@pytest.mark.slow
def test_images_in_their_own_aspect_are_grouped_alike_on_any_number_of_ranks_and_through_a_kill(tmp_path: Path) -> None:
    write(tmp_path / "shapes", {"train": 40, "val": 4})
    length = ["train.steps=6"]
    ranks(1, *GROUPED, *length, "name=unbroken", cwd=tmp_path)
    killed, unbroken = tmp_path / "runs/killed", tmp_path / "runs/unbroken"
    running = forked(*GROUPED, *length, "name=killed", count=2, cwd=tmp_path)
    running.until(lambda: len(lines(killed / "ledger/rank-0.jsonl")) >= 3 and is_saved(killed))
    running.kill_all()
    ranks(3, "--resume", killed, cwd=tmp_path)
    assert_bitwise(killed, unbroken)
    ids = [number for line in lines(unbroken / "ledger/rank-0.jsonl") for number in line["ids"]]
    pairs = list(zip(ids[::2], ids[1::2], strict=True))  # of each micro-batch
    assert len(pairs) == 18 and all(one % 2 == other % 2 for one, other in pairs)  # every second image is high


@pytest.mark.slow
def test_a_mask_r_cnn_is_killed_resumes_and_is_evaluated_and_predicts(tmp_path: Path) -> None:
    length = ["train.steps=4"]
    ranks(1, *MASKS, *length, "name=unbroken", cwd=tmp_path)
    killed = tmp_path / "runs/killed"
    running = forked(*MASKS, *length, "name=killed", count=2, cwd=tmp_path)
    running.until(lambda: len(lines(killed / "ledger/rank-0.jsonl")) >= 3 and is_saved(killed))
    running.kill_all()
    ranks(2, "--resume", killed, cwd=tmp_path)
    assert_bitwise(killed, tmp_path / "runs/unbroken")

    logged = lines(killed / "metrics.jsonl")[-1]
    found = json.loads(phalanx("evaluate", killed, "--json", "--results", "results.json", cwd=tmp_path).output)
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results) == 4 * 5 and {one["image_id"] for one in results} == {0, 1, 2, 3}
    assert all(set(one) == {"image_id", "category_id", "bbox", "score", "segmentation"} for one in results)
    for name in ("ap", "ap50", "mask_ap", "mask_ap50", "ar100"):
        assert found[name] == logged[f"val/{name}"]
    Image.new("RGB", (80, 60), (90, 120, 60)).save(tmp_path / "photo.png")
    phalanx("predict", killed, "photo.png", "-o", "seen", cwd=tmp_path)
    (told,) = json.loads((tmp_path / "seen/predictions.json").read_text())
    assert told["file"] == "photo.png" and len(told["objects"]) <= 5
    for seen in told["objects"]:
        left, top, right, bottom = seen["box"]
        assert 0 <= left < right <= 80 and 0 <= top < bottom <= 60 and 0 <= seen["score"] <= 1
    with Image.open(tmp_path / "seen" / told["picture"]) as picture:
        assert picture.width >= 80
