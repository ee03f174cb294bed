"""`data.ignore_index` that names a class: not learnt, not counted, not listed; and classes that should be named so."""

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.bad_sample import BadSample
from phalanx.data.loading.loader import Samples, collate
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.microbatches.sampler import Draw
from phalanx.train import tasks
from phalanx.train.setup.build import data_info as data_facts
from tests.data.pictures import config, masks, picture, save
from tests.support.running import DIGITS

NAMES = ("road", "void", "tree", "car")
NUMBERS = [[0, 1, 2], [3, 1, 2]]


def folder(root: Path, numbers: list[list[int]], names: tuple[str, ...] = NAMES) -> Path:
    masks(root, train=0, val=0, classes=names)
    for split in ("train", "val"):
        save(picture(1, 3, 2), root / f"images/{split}/a.png")
        save(Image.fromarray(numpy.array(numbers, numpy.uint8)), root / f"masks/{split}/a.png")
    return root


def recipe(root: Path, *keys: str) -> RunConfig:
    given = [f"data.root={root}", "data.name=masks", "data.image_size=[4,5]", "data.fit=pad", "data.augment.shift=2"]
    return load([DIGITS], ["task.name=segmentation", "model.name=unet", *given, *keys])


@pytest.mark.parametrize(
    ("ignored", "classes", "learnt"),
    [
        (0, ("void", "tree", "car"), [[255, 0, 1], [2, 0, 1]]),
        (1, ("road", "tree", "car"), [[0, 255, 1], [2, 255, 1]]),
        (3, ("road", "void", "tree"), [[0, 1, 2], [255, 1, 2]]),
        (9, NAMES, NUMBERS),
    ],
)
def test_a_class_that_is_ignored_is_no_class_and_those_after_it_move_up(
    ignored: int, classes: tuple[str, ...], learnt: list[list[int]], tmp_path: Path
) -> None:
    dataset = open_split(config("masks", folder(tmp_path, NUMBERS), ignore_index=ignored), "train")
    assert dataset.classes == classes and dataset[0]["mask"].tolist() == learnt
    flat = [number for row in learnt for number in row if number != 255]
    assert dataset_info.class_counts(dataset) == [flat.count(number) for number in range(len(classes))]
    assert dataset_info.ignored(dataset) == (255 if ignored < 4 else 9)


def test_an_ignored_class_gives_the_targets_of_masks_without_it(tmp_path: Path) -> None:
    """Padding and shifts of training included."""
    plain = [[{0: 0, 1: 255, 2: 1, 3: 2}[number] for number in row] for row in NUMBERS]
    roots = {"ignore_index=1": folder(tmp_path / "one", NUMBERS)}
    roots["ignore_index=255"] = folder(tmp_path / "other", plain, ("road", "tree", "car"))
    found = []
    for key, root in roots.items():
        run = recipe(root, f"data.{key}")
        dataset = open_split(run.data, "train")
        samples = Samples(dataset, pipeline(run.data, dataset, "train"), run.seed)
        batch = collate([samples[Draw(epoch, 0)] for epoch in range(8)], frozenset())
        task = tasks.build(run, data_facts(dataset, run))
        found.append((task._target(batch["mask"]), task.weights(batch), data_facts(dataset, run)))  # type: ignore[attr-defined]
    (one, weights, known), (other, other_weights, other_known) = found
    assert torch.equal(one, other) and weights == other_weights and known == other_known
    assert set(one.unique().tolist()) == {-1, 0, 1, 2}


def test_an_ignored_class_of_voc_is_taken_out_beside_its_borders(tmp_path: Path) -> None:
    save(Image.fromarray(numpy.array([[0, 1], [255, 20]], numpy.uint8)), tmp_path / "SegmentationClass/a.png")
    save(picture(1, 2, 2), tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\n")
    dataset = open_split(config("voc", tmp_path, ignore_index=0), "train")
    assert len(dataset.classes) == 20 and dataset[0]["mask"].tolist() == [[255, 0], [255, 19]]


def test_a_number_that_is_no_class_beside_an_ignored_one_is_reported(tmp_path: Path) -> None:
    dataset = open_split(config("masks", folder(tmp_path, [[0, 1, 255]] * 2), ignore_index=1), "train")
    with pytest.raises(
        BadSample, match=r"class 255, but classes\.txt names 4 \(0 to 3\)\. Correct the mask, or name the class"
    ):
        dataset[0]


def test_what_is_taken_out_is_said_and_what_should_perhaps_be_is_hinted_at(tmp_path: Path) -> None:
    root = folder(tmp_path, NUMBERS)
    (said,) = dataset_info.notes(open_split(config("masks", root, ignore_index=1), "train"))
    assert said == "data.ignore_index=1 is the class void: its pixels are ignored, and the other 3 classes are learnt."
    for name in ("void", "Unlabeled", "un-labelled", "ignore_region", "Background", "don't care"):
        (root / "classes.txt").write_text(f"road\n{name}\ntree\ncar\n")
        (said,) = dataset_info.notes(open_split(config("masks", root), "train"))
        assert said.startswith(f"classes.txt: {name} is learnt") and "with data.ignore_index=1 its pixels" in said
    (root / "classes.txt").write_text("background\nvoid\ntree\ncar\n")
    assert "data.ignore_index=1" in dataset_info.notes(open_split(config("masks", root), "train"))[0]
    (root / "classes.txt").write_text("road\navoidance\ntree\ncar\n")
    assert dataset_info.notes(open_split(config("masks", root), "train")) == ()
