"""What a user sees of bad data: one sentence that names the file, exit code 2; or a run that continues without it."""

from pathlib import Path

import pytest

from tests.data.pictures import image_folder, jpeg
from tests.support.running import DIGITS, assert_bitwise, lines, phalanx, ranks, sample_ids

TRAIN = [DIGITS, "data.root=data", "data.image_size=8", "train.global_batch=8", "train.micro_batch=4", "train.steps=3"]
FOLDER = [*TRAIN, "data.name=image_folder", "data.workers=1"]


def folder(root: Path) -> Path:
    image_folder(root / "data", (8, 8))
    image_folder(root / "data", (2, 2), "val")
    return root / "data/train/class-0"


def refused(said: str) -> str:
    """What was said after the run directory's name, one line."""
    told = [line for line in said.splitlines() if line]
    assert len(told) == 1, said
    return told[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_while_training_ends_it_with_a_sentence(tmp_path: Path, workers: int) -> None:
    """Where the start has not read it: another file of the list was, 16 of many."""
    images = folder(tmp_path)
    image_folder(tmp_path / "data", (60, 8))
    (images / "11.png").write_bytes(jpeg(1)[:300])
    arguments = [*FOLDER, "train.global_batch=64", "train.micro_batch=32", "data.check=quick", f"data.workers={workers}"]
    failed = phalanx("train", *arguments, cwd=tmp_path, expect=2)
    assert "data/train/class-0/11.png: this JPEG cannot be decoded" in refused(failed.errors)


@pytest.mark.parametrize("count", [1, 2])
def test_the_full_check_counts_before_the_first_step(tmp_path: Path, count: int) -> None:
    images = folder(tmp_path)
    for name in ("2.png", "3.png"):
        (images / name).write_bytes(b"nothing")
    failed = ranks(count, *FOLDER, "data.check=full", cwd=tmp_path, expect=2)
    said = refused(failed.errors)
    assert said == (
        f"phalanx: {images}/2.png: this file is not an image. 2 of 16 samples cannot be read ({images}/3.png). "
        "Replace it; data.on_error=skip skips such files in training."
    )
    assert not (tmp_path / "runs").exists()


def test_skipping_is_counted_and_the_same_on_one_rank_and_two(tmp_path: Path) -> None:
    images = folder(tmp_path)
    for name in ("2.png", "3.png"):
        (images / name).write_bytes(b"nothing")
    settings = ["data.on_error=skip", "data.ledger=true", "dist.reduce=exact", "train.steps=4"]
    ranks(1, *FOLDER, *settings, "name=one", "data.workers=0", cwd=tmp_path)
    done = ranks(2, *FOLDER, *settings, "name=two", "data.workers=1", cwd=tmp_path)
    assert_bitwise(tmp_path / "runs/one", tmp_path / "runs/two")
    assert sorted(i for ids in list(sample_ids(tmp_path / "runs/two").values())[:2] for i in ids) == list(range(16))
    (event,) = [e for e in lines(tmp_path / "runs/two/events.jsonl") if e["event"] == "unreadable"]
    assert event["count"] == 2 and event["files"] == [f"{tmp_path}/data/train/class-0/{n}.png" for n in (2, 3)]
    assert "class-0/2.png: this file is not an image; the next sample is used instead" in done.errors


@pytest.mark.parametrize("target", ["class"])
def test_shapes_train_without_any_file(tmp_path: Path, target: str) -> None:
    done = phalanx(
        "train", DIGITS, "data.name=shapes", f"data.options.target={target}", "data.options.train=64", "data.options.val=16",
        "data.image_size=16", "train.steps=2", cwd=tmp_path,
    )  # fmt: skip
    assert "done: 2 steps" in done.output
