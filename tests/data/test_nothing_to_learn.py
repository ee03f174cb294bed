"""Data of which nothing can be learnt is refused before the first step, with counts, and with where labels lie instead."""

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.sections.data import DataConfig
from phalanx.data.inspect.nothing_to_learn import nothing_in_validation, refuse_nothing
from phalanx.data.open import open_split
from phalanx.dist.comm.process_group import World
from phalanx.dist.processes.environment import Ranks
from phalanx.train.setup.data_check import check_data
from tests.data.annotations import COCO, coco, voc, voc_object, voc_xml, yolo
from tests.data.pictures import picture, save
from tests.support.running import ROOT

HARD = "<difficult>1</difficult>"


def _no_labels(root: Path) -> DataConfig:
    config = yolo(root, "")
    (root / "labels/train/9.txt").unlink()
    return config


def _voc(root: Path, inside: str) -> DataConfig:
    config = voc(root, voc_xml(inside))
    (root / "classes.txt").write_text("dog\ncat\n")
    return config


def _list(root: Path) -> DataConfig:
    for name in "ab":
        save(picture(ord(name)), root / f"{name}.png")
    (root / "train.csv").write_text("a.png,;\nb.png,\n")
    (root / "classes.txt").write_text("dog\ncat\n")
    return DataConfig(name="list", root=str(root))


CROWDS = [row | {"iscrowd": 1} for row in COCO["annotations"]]
OUTSIDE = [row | {"bbox": [500, 500, 9, 9]} for row in COCO["annotations"]]
NOTHING: dict[str, tuple[Any, str]] = {
    "coco": (lambda root: coco(root, annotations=[]), r"instances_train\.json: its 0 annotations of 3 images give the"),
    "crowds": (lambda root: coco(root, annotations=CROWDS), r"no object besides 3 that are crowds or difficult, "),
    "left out": (
        lambda root: coco(root, annotations=OUTSIDE).model_copy(update={"on_error": "skip"}),
        r"its 3 annotations of 3 images .* 3 of 3 objects exceed their images\. They are left out\.",
    ),
    "yolo": (_no_labels, r"labels/train: the label files of 0 of 3 images give the training split no object"),
    "empty files": (lambda root: yolo(root, "\n"), r"labels/train: the label files of 1 of 3 images give the training"),
    "voc": (lambda root: _voc(root, "<x/>"), r"Annotations: the 1 annotations that .*train\.txt lists give the training"),
    "difficult": (lambda root: _voc(root, voc_object("dog", 3, 5, 12, 24, HARD)), r"no object besides 1 that are crowds or"),
    "list": (_list, r"train\.csv: its 2 lines give the training split no label, so that nothing can be learnt"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "sentence"), NOTHING.values(), ids=NOTHING)
def test_a_training_split_without_anything_to_learn_is_refused_with_counts_and_a_validation_split_reported(
    tmp_path: Path, made: Any, sentence: str
) -> None:
    data = open_split(made(tmp_path), "train")
    with pytest.raises(UserError, match=sentence) as caught:
        refuse_nothing(data)
    assert "\n" not in str(caught.value) and caught.value.shared
    (note,) = nothing_in_validation(data)
    assert "give the validation split no" in note


def test_training_looks_before_its_first_step_and_says_so_of_validation(tmp_path: Path) -> None:
    config = load([str(ROOT / "configs/recipes/digits_resnet18.yaml")], ["data.check=quick", "data.workers=0"])
    alone = World(Ranks(), torch.device("cpu"), cast(Any, None), None, timedelta(seconds=1))
    empty, full = (
        open_split(made(tmp_path / name), "train") for name, made in (("empty", lambda root: yolo(root, "")), ("full", yolo))
    )
    with pytest.raises(UserError, match="give the training split no object, so that nothing can be learnt"):
        check_data(config, empty, full, alone, resuming=False)
    (said,) = check_data(config, full, empty, alone, resuming=False)
    assert "give the validation split no object" in said


def test_a_part_of_a_split_is_looked_at_too_and_data_with_objects_passes(tmp_path: Path) -> None:
    config = yolo(tmp_path)
    refuse_nothing(open_split(config, "train"))
    verdicts = []
    for which in (1, 2, 3):
        part = open_split(config.model_copy(update={"fold": f"{which}/3"}), "val")
        verdicts.append(len(nothing_in_validation(part)))
    assert sorted(verdicts) == [0, 1, 1]
    refuse_nothing(open_split(DataConfig(name="digits"), "train"))


ELSEWHERE: dict[str, tuple[str, str]] = {
    "beside the images": ("images/train/{}.txt", r"3 \.txt files are beside the images\. Move them to .*labels/train"),
    "beside, in capitals": ("images/train/{}.TXT", r"3 \.txt files are beside the images"),
    "above": ("labels/{}.txt", r"3 \.txt files are in .*labels\. Move those of this split to .*labels/train"),
    "in the root": ("{}.txt", r"3 \.txt files are in .*\. Move those of this split to .*labels/train"),
    "under other names": ("labels/train/image-{}.txt", r"3 \.txt files in it have no image of their name"),
}  # fmt: skip


@pytest.mark.parametrize(("place", "sentence"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_labels_that_lie_elsewhere_are_counted_and_named_in_both_splits(tmp_path: Path, place: str, sentence: str) -> None:
    config = _no_labels(tmp_path)
    for name in (1, 7, 9):
        (tmp_path / place.format(name)).write_text("1 0.25 0.5 0.5 0.25\n")
    with pytest.raises(UserError, match=rf"there is no label file for any of 3 images in .*images/train, but {sentence}"):
        open_split(config, "train")
