"""A folder a class."""

from pathlib import Path

import pytest

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.images.decoding import read_image
from phalanx.data.open import open_split
from tests.data.pictures import config, image_folder, picture, save


def test_classes_are_the_sorted_folders_and_images_come_class_after_class(tmp_path: Path) -> None:
    image_folder(tmp_path, (12, 3), "train")
    image_folder(tmp_path, (2, 1), "val")
    save(picture(5, 30, 40), tmp_path / "train/class-1/deeper/a.JPG")
    (tmp_path / "train/class-1/notes.txt").write_text("no image")
    training, validation = (open_split(config("image_folder", tmp_path), split) for split in ("train", "val"))
    assert training.classes == validation.classes == ("class-0", "class-1")
    assert (len(training), len(validation)) == (16, 3)
    names = [str(Path(dataset_info.path(training, i)).relative_to(tmp_path / "train/class-0")) for i in range(12)]
    assert names == sorted(f"{i}.png" for i in range(12))
    sample = training[15]
    assert sample["target"] == 1 and sample["image"].shape == (3, 40, 30)
    assert dataset_info.class_counts(training) == [12, 4] and dataset_info.labels(validation).tolist() == [0, 0, 1]
    assert (training.mean, training.std) == (dataset_info.IMAGENET_MEAN, dataset_info.IMAGENET_STD)
    assert (training[3]["image"] == read_image(dataset_info.path(training, 3), "rgb")).all()


def test_the_mode_decides_the_channels(tmp_path: Path) -> None:
    image_folder(tmp_path)
    image_folder(tmp_path, split="val")
    for mode, channels in (("grey", 1), ("rgba", 4)):
        dataset = open_split(config("image_folder", tmp_path, mode=mode), "train")
        assert dataset.channels == len(dataset.mean) == len(dataset.std) == len(dataset[0]["image"]) == channels


def test_without_splits_a_share_is_held_out(tmp_path: Path) -> None:
    image_folder(tmp_path, (8, 4), split=None)
    training, validation = (open_split(config("image_folder", tmp_path, val_fraction=0.25), s, 3) for s in ("train", "val"))
    assert dataset_info.class_counts(training) == [6, 3] and dataset_info.class_counts(validation) == [2, 1]
    with pytest.raises(
        UserError, match=r"train: there is no such folder.*\(class-0, class-1\), or data\.val_fraction to hold out"
    ):
        open_split(config("image_folder", tmp_path), "train")


def test_folders_that_cannot_be_are_reported(tmp_path: Path) -> None:
    image_folder(tmp_path)
    with pytest.raises(UserError, match=r"val: there is no such folder\. Set data\.val_split"):
        open_split(config("image_folder", tmp_path), "val")
    image_folder(tmp_path, (1, 1, 1), "val")
    with pytest.raises(
        UserError, match=r"val/ has 1 class folder that .*train/ lacks: class-2\. Classes are those of the train"
    ):
        open_split(config("image_folder", tmp_path), "val")
    (tmp_path / "train/class-2").mkdir()
    with pytest.raises(UserError, match=r"train/class-2: this class has no images"):
        open_split(config("image_folder", tmp_path), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: there are no folders in it"):
        open_split(config("image_folder", tmp_path, train_split="empty"), "train")
    image_folder(tmp_path / "alone", (3,))
    with pytest.raises(UserError, match=r"all images are of one class, class-0"):
        open_split(config("image_folder", tmp_path / "alone"), "train")


def test_a_validation_split_may_lack_classes_and_says_which_once(tmp_path: Path) -> None:
    image_folder(tmp_path, (3, 3, 3, 3), "train")
    image_folder(tmp_path, (2, 0, 2, 0), "val")
    (tmp_path / "val/class-3").mkdir()
    (tmp_path / "val/a class of the future").mkdir()
    training, validation = (open_split(config("image_folder", tmp_path), split) for split in ("train", "val"))
    assert training.classes == validation.classes == ("class-0", "class-1", "class-2", "class-3")
    assert dataset_info.labels(validation).tolist() == [0, 0, 2, 2] and dataset_info.class_counts(validation) == [2, 0, 2, 0]
    assert dataset_info.notes(training) == () and dataset_info.notes(validation) == (
        f"{tmp_path}/val/ lacks 1 class folder that train/ has: class-1.",
        f"{tmp_path}/val/ has 1 class folder without images: class-3.",
    )


@pytest.mark.parametrize("names", [("Testing", "Training"), ("test", "train", "valid")])
def test_splits_are_not_taken_for_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        image_folder(tmp_path, (4, 4), name)
    with pytest.raises(UserError) as raised:
        open_split(config("image_folder", tmp_path, train_split="pictures", val_fraction=0.25), "train")
    assert f"{tmp_path}: its folders {', '.join(names)} have the names of splits, not of classes" in str(raised.value)
    for name in ("train", "car", "bus"):
        save(picture(1), tmp_path / "vehicles" / name / "0.png")
    assert open_split(config("image_folder", tmp_path, train_split="vehicles"), "train").classes == ("bus", "car", "train")


def test_a_root_one_level_too_high_names_the_right_one(tmp_path: Path) -> None:
    image_folder(tmp_path / "flowers", (2, 2), "train")
    with pytest.raises(UserError, match=r"no such folder, but there is .*/flowers/train\. Set data\.root=.*/flowers\."):
        open_split(config("image_folder", tmp_path), "train")


def test_a_link_to_itself_beside_the_class_folders_is_no_image(tmp_path: Path) -> None:
    image_folder(tmp_path, (2, 1), "train")
    (tmp_path / "train/loop.png").symlink_to("loop.png")
    assert len(open_split(config("image_folder", tmp_path), "train")) == 3
