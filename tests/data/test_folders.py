"""Folders as people have them: what programs leave there is not data, and every real folder is read once."""

from pathlib import Path
from typing import Any

import pytest

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.open import open_split
from phalanx.train.evaluation.predict import find_images
from tests.data.pictures import config, image_folder, masks, picture, save

LEFT = ("__MACOSX", "@eaDir", ".ipynb_checkpoints", "#recycle", ".git", "$RECYCLE.BIN", "lost+found")


def files(dataset: Any, root: Path) -> list[str]:
    return [str(Path(dataset_info.path(dataset, number)).relative_to(root)) for number in range(len(dataset))]


def clutter(folder: Path) -> None:
    """What programs leave in a folder of images, each with a picture in it."""
    for name in LEFT:
        save(picture(1), folder / name / "0.png")
        save(picture(1), folder / name / "deeper" / "0.png")
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.jpg"):
        (folder / name).write_bytes(b"not an image")


def test_what_programs_leave_in_folders_of_classes_is_no_data(tmp_path: Path) -> None:
    image_folder(tmp_path)
    before = files(open_split(config("image_folder", tmp_path), "train"), tmp_path)
    for folder in (tmp_path, tmp_path / "train", tmp_path / "train/class-0", tmp_path / "train/class-1"):
        clutter(folder)
    dataset = open_split(config("image_folder", tmp_path), "train")
    assert dataset.classes == ("class-0", "class-1") and files(dataset, tmp_path) == before


def test_what_programs_leave_among_images_and_masks_is_no_data(tmp_path: Path) -> None:
    masks(tmp_path)
    before = files(open_split(config("masks", tmp_path), "train"), tmp_path)
    clutter(tmp_path / "images/train")
    assert files(open_split(config("masks", tmp_path), "train"), tmp_path) == before


def test_what_programs_leave_is_not_predicted(tmp_path: Path) -> None:
    save(picture(1), tmp_path / "photos/a/0.png")
    clutter(tmp_path / "photos/a")
    (tmp_path / "photos/a/up").symlink_to("..")
    assert [place for _, place in find_images([str(tmp_path / "photos")])] == [Path("a/0.jpg")]


def test_linked_folders_are_read_and_each_real_folder_once(tmp_path: Path) -> None:
    image_folder(tmp_path / "data", (2, 2))
    save(picture(7), tmp_path / "elsewhere/deep/x.png")
    inside = tmp_path / "data/train/class-0"
    (inside / "linked").symlink_to(tmp_path / "elsewhere")
    (inside / "again").symlink_to(tmp_path / "elsewhere/deep")
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "elsewhere")
    (inside / "up").symlink_to("..")
    (inside / "gone").symlink_to("nowhere")
    (tmp_path / "data/train/top").symlink_to("..")
    (tmp_path / "data/train/itself").symlink_to("itself")
    dataset = open_split(config("image_folder", tmp_path / "data"), "train")
    assert dataset.classes == ("class-0", "class-1")
    assert files(dataset, tmp_path / "data/train") == [
        *("class-0/0.png", "class-0/1.png", "class-0/again/x.png", "class-1/0.png", "class-1/1.png")
    ]


def test_a_class_may_be_a_link(tmp_path: Path) -> None:
    image_folder(tmp_path / "data", (2, 2))
    save(picture(7), tmp_path / "elsewhere/x.png")
    (tmp_path / "data/train/linked").symlink_to(tmp_path / "elsewhere")
    assert dataset_info.class_counts(open_split(config("image_folder", tmp_path / "data"), "train")) == [2, 2, 1]


def test_masks_in_linked_folders_go_with_their_images(tmp_path: Path) -> None:
    masks(tmp_path / "data", train=3)
    for what in ("images", "masks"):
        (tmp_path / f"data/{what}/train").rename(tmp_path / what)
        (tmp_path / f"data/{what}/train").mkdir()
        (tmp_path / f"data/{what}/train/city").symlink_to(tmp_path / what)
        (tmp_path / f"data/{what}/train/up").symlink_to("..")
    dataset = open_split(config("masks", tmp_path / "data"), "train")
    assert files(dataset, tmp_path / "data") == [f"images/train/city/{number}.jpg" for number in range(3)]
    assert dataset.mask_path(2).endswith("masks/train/city/2.png")


def test_suffixes_of_any_case_and_of_old_programs_are_images_and_others_are_reported(tmp_path: Path) -> None:
    image_folder(tmp_path)
    for name in ("a.Jpg", "b.JFIF", "c.jpe", "d.TIFF", "e.Png", "f.heic", "g.HEIC", "h.svg", ".i.heic", "notes.txt"):
        (tmp_path / "train/class-0" / name).write_bytes(b"")
    dataset = open_split(config("image_folder", tmp_path), "train")
    assert dataset_info.class_counts(dataset) == [10, 3]
    (said,) = dataset_info.notes(dataset)
    assert "files of unsupported formats were left out (2 .heic, 1 .svg)" in said


def test_a_folder_that_cannot_be_listed_is_reported_and_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder(tmp_path)
    monkeypatch.chdir(tmp_path / "train/class-0")
    for _ in range(20):  # longer than a path may be
        Path("d" * 250).mkdir()
        monkeypatch.chdir("d" * 250)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="this folder cannot be read: File name too long"):
        open_split(config("image_folder", tmp_path), "train")
