"""Bad data: one sentence each, that names the file, counts the others, and says what to do."""

from pathlib import Path

import numpy
import pytest
from PIL import Image

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Split
from phalanx.data.inspect.check import as_json, check_part, judge, merged
from phalanx.data.open import open_split
from phalanx.data.skip_unreadable import SkipUnreadable
from tests.data.pictures import config, image_folder, jpeg, masks, picture, save


def checked(settings: DataConfig, split: Split = "train", world: int = 1) -> list[str]:
    """What is said of a split that so many ranks check."""
    dataset = open_split(settings, split)
    parts = [as_json(check_part(dataset, settings, rank, world, lambda: None)) for rank in range(world)]
    return judge(merged(parts), dataset, settings, split)


def refused(settings: DataConfig, split: Split = "train", world: int = 1) -> str:
    with pytest.raises(UserError) as raised:
        checked(settings, split, world)
    return str(raised.value)


def spoil(root: Path) -> list[Path]:
    """Four of 12 images: not there any more, cut short, no image, a single pixel."""
    bad = [root / f"train/class-0/{name}.png" for name in ("1", "3", "5", "7")]
    bad[0].write_bytes(jpeg(1)[:200])
    bad[1].write_text("<html>")
    save(picture(1, 1, 1), bad[2])
    bad[3].write_bytes(b"")
    return bad


@pytest.mark.parametrize("level", ["quick", "full"])
@pytest.mark.parametrize("name", ["image_folder", "masks", "shapes", "digits"])
def test_good_data_is_passed(name: str, level: str, tmp_path: Path) -> None:
    {"image_folder": image_folder, "masks": masks}.get(name, lambda root: None)(tmp_path)
    root = tmp_path if name in ("image_folder", "masks") else None
    keys = {"options": {"train": 40}} if name == "shapes" else {}
    assert checked(config(name, root, check=level, workers=0, **keys)) == []


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (3, 0)])
def test_every_image_that_cannot_be_read_is_counted_and_the_first_are_named(tmp_path: Path, world: int, workers: int) -> None:
    image_folder(tmp_path, (8, 4))
    bad = spoil(tmp_path)
    said = refused(config("image_folder", tmp_path, workers=workers), world=world)
    assert said == (
        f"{bad[0]}: this JPEG cannot be decoded (it ends too early). 4 of 12 samples cannot be read ({bad[1]}, {bad[2]}, ...). "
        "Replace it; data.on_error=skip skips such files in training."
    )


def test_what_is_skipped_in_training_is_said_and_in_validation_refused(tmp_path: Path) -> None:
    image_folder(tmp_path, (8, 4))
    image_folder(tmp_path, (2, 2), "val")
    spoil(tmp_path)
    (tmp_path / "val/class-1/0.png").write_bytes(b"x")
    settings = config("image_folder", tmp_path, workers=0, on_error="skip", sampling="class_balanced")
    (said,) = checked(settings)
    assert "4 of 12 samples cannot be read" in said and said.endswith("The next samples are used instead.")
    assert "val/class-1/0.png: this file is not an image" in refused(settings, "val")


def test_a_list_that_names_files_that_are_not_there(tmp_path: Path) -> None:
    save(picture(1), tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("a.png,cat\nb.png,dog\nc.png,dog\n")
    for level in ("quick", "full"):
        said = refused(config("list", tmp_path, check=level, workers=0))
        assert said.startswith(f"{tmp_path}/b.png: there is no such file. 2 of 3 samples cannot be read ({tmp_path}/c.png)")


def test_masks_out_of_range_are_counted_as_one_sentence(tmp_path: Path) -> None:
    masks(tmp_path, train=30)
    for i in (2, 5, 7):
        Image.fromarray(numpy.full((16, 20), 14, numpy.uint8)).save(tmp_path / f"masks/train/{i}.png")
    said = refused(config("masks", tmp_path, workers=0))
    names = sorted(str(tmp_path / f"masks/train/{i}.png") for i in (2, 5, 7))
    assert said == (
        f"{names[0]}: class 14, but classes.txt names 3 (0 to 2). 3 of 30 masks have such pixels ({names[1]}, {names[2]}). "
        "Set data.ignore_index=14, or correct classes.txt."
    )


def test_different_problems_get_a_line_each(tmp_path: Path) -> None:
    masks(tmp_path, train=6)
    Image.fromarray(numpy.full((16, 20), 14, numpy.uint8)).save(tmp_path / "masks/train/1.png")
    Image.fromarray(numpy.zeros((16, 21), numpy.uint8)).save(tmp_path / "masks/train/2.png")
    (tmp_path / "images/train/3.jpg").write_bytes(b"x")
    lines = refused(config("masks", tmp_path, workers=0)).splitlines()
    assert len(lines) == 3 and "1 of 6 masks differ in size from their image" in lines[1]


def test_only_the_samples_of_a_part_are_checked(tmp_path: Path) -> None:
    image_folder(tmp_path, (8, 4), split=None)
    (tmp_path / "class-0/3.png").write_bytes(b"x")
    verdicts = []
    for which in (1, 2, 3):
        settings = config("image_folder", tmp_path, workers=0, fold=f"{which}/3")
        try:
            checked(settings, "val")
            verdicts.append("good")
        except UserError as error:
            verdicts.append(str(error).split(". ")[1])
    assert sorted(verdicts) == ["1 of 4 samples cannot be read", "good", "good"]


def test_a_sample_that_cannot_be_read_is_replaced_by_the_next_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    image_folder(tmp_path, (3, 2))
    for name in ("class-0/1", "class-0/2", "class-1/1"):
        (tmp_path / f"train/{name}.png").write_bytes(b"x")
    plain = open_split(config("image_folder", tmp_path), "train")
    dataset = open_split(config("image_folder", tmp_path, on_error="skip"), "train")
    assert isinstance(dataset, SkipUnreadable) and dataset.met() == []
    for _ in range(2):
        for asked, given in ((0, 0), (1, 3), (2, 3), (3, 3), (4, 0)):
            sample, expected = dataset[asked], plain[given]
            assert (sample["image"] == expected["image"]).all() and sample["target"] == expected["target"]
    assert dataset.met() == [1, 2, 4]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 3 and said[0] == (
        f"phalanx: {tmp_path}/train/class-0/1.png: this file is not an image; the next sample is used instead"
    )
    assert dataset_info.class_counts(dataset) == [3, 2] and not isinstance(
        open_split(config("image_folder", image_folder(tmp_path, split="val"), on_error="skip"), "val"), SkipUnreadable
    )


def test_where_no_sample_can_be_read_the_last_one_is_named(tmp_path: Path) -> None:
    image_folder(tmp_path, (1, 1))
    for name in ("class-0/0", "class-1/0"):
        (tmp_path / f"train/{name}.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"class-1/0\.png: this file is not an image"):
        open_split(config("image_folder", tmp_path, on_error="skip"), "train")[0]
