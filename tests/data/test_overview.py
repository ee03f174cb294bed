"""The contact sheet shows what the network sees, with masks and boxes where they belong; the figures are the data's."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from phalanx.data.inspect.drawing import colour, font, picture, shortened, text_width
from phalanx.data.inspect.overview import augmentation, overview
from phalanx.data.inspect.sheet import _caption, tiles
from phalanx.data.transforms.pipeline import pipeline
from tests.data.examples import Noise, loader, recipe, steps
from tests.support.running import DIGITS, phalanx


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_masks_and_boxes_are_drawn_where_they_belong(kind: str, fit: str, split: Any) -> None:
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:30, 15:45] = 255
    marked = image[0] == 255
    sample: dict[str, Any] = {"image": image, "id": torch.tensor(3)}
    if kind == "segmentation":
        sample |= {"mask": marked.long()}
    else:
        boxes = torch.tensor([[15.0, 10, 45, 30]])
        sample |= {"boxes": boxes, "labels": torch.tensor([1]), "masks": marked.unsqueeze(0)}
    grey = ["data.mean=[0.5,0.5,0.5]", "data.std=[1,1,1]"]  # of the ground
    config = recipe("data.image_size=[96,96]", f"data.fit={fit}", *grey)
    seen = pipeline(config.data, Noise(kind), split)
    batch = {name: value.unsqueeze(0) if name in ("image", "id") else [value] for name, value in seen(sample).items()}
    if "size" in batch:
        batch["size"] = torch.stack(batch["size"])
    (tile,) = tiles(batch, seen, Noise.classes)
    drawn = numpy.asarray(tile.image).astype(int)
    factor = tile.image.height / 96
    bright = seen.pixels(batch["image"])[0, 0] > 0.8  # [96, 96]
    shown = bright.repeat_interleave(round(factor), 0).repeat_interleave(round(factor), 1)
    if kind == "segmentation":
        drawn = drawn[:, -tile.image.height :]
    coloured = (numpy.abs(drawn[..., 0] - drawn[..., 2]) > 20) & (drawn.max(axis=2) > 60)
    assert (coloured == shown.numpy()).mean() > 0.9


def test_a_caption_says_what_a_target_is() -> None:
    classes = ("cat", "dog", "elk")
    assert _caption({"target": torch.tensor(1)}, classes) == "dog"
    assert _caption({"target": torch.tensor([0.0, 1, 1])}, classes) == "elk, dog"
    assert _caption({"target": torch.tensor([0.25, 0.0, 0.75])}, classes) == "elk (75%) + cat (25%)"
    assert _caption({"mask": torch.tensor([[0, 255], [2, 2]])}, classes) == "cat, elk"
    assert _caption({"boxes": torch.zeros(1, 4), "labels": torch.tensor([2])}, classes) == "1 box"


def test_a_text_that_is_too_long_ends_with_an_ellipsis() -> None:
    face = font(14)
    assert shortened("short", face, 200) == "short"
    cut = shortened("a very long name of a class, and more", face, 100)
    assert cut.endswith("…") and text_width(cut, face) <= 100


def test_colours_of_neighbouring_classes_differ() -> None:
    for number in range(200):
        assert max(abs(a - b) for a, b in zip(colour(number), colour(number + 1), strict=True)) > 40


def test_pictures_show_any_number_of_channels() -> None:
    for channels in (1, 2, 3, 4, 7):
        assert picture(torch.rand(channels, 5, 9)).size == (9, 5)


def test_the_sheet_of_training_shows_the_first_micro_batches_of_the_run() -> None:
    config, dataset = recipe("data.augment.mixup=0.5"), Noise()
    found = overview(config, dataset, "train", 5)
    first = steps([loader(config, dataset)], 0, 1)[0][0]
    seen = pipeline(config.data, dataset, "train")
    expected = numpy.asarray(tiles(first, seen, dataset.classes)[0].image)
    sheet = numpy.asarray(found.picture)
    height, width = expected.shape[:2]
    top = next(y for y in range(len(sheet) - height) if numpy.array_equal(sheet[y : y + height, 24 : 24 + width], expected))
    assert 60 < top < 120
    assert augmentation(config) == "mixup 0.5" and augmentation(recipe()) == "no augmentation"
    assert augmentation(recipe("data.augment.sizes=[8,16]", "data.augment.scale=[0.5,2]")) == "scale 0.5 to 2, sizes 8 or 16"


@pytest.mark.parametrize("kind", ["classification", "segmentation", "detection"])
def test_figures_are_those_of_the_data(kind: str) -> None:
    found = overview(recipe(), Noise(kind), "val", 4)
    assert (found.samples, found.channels, found.smallest, found.largest) == (21, 3, (20, 31), (29, 31))
    assert found.counts is None and found.load_ms > 0 and found.transform_ms > 0
    assert any("does not report how many" in line for line in found.lines())


def test_the_verb_writes_a_sheet_and_counts_classes(tmp_path: Path) -> None:
    said = phalanx("data", DIGITS, "--count", "6", "-o", "seen.png", cwd=tmp_path).output
    assert "digits, train: 1,437 samples of 10 classes" in said and "seen.png" in said
    with Image.open(tmp_path / "seen.png") as sheet:
        assert sheet.width > 400
    figures = json.loads(phalanx("data", DIGITS, "--split", "val", "--json", cwd=tmp_path).output)
    assert figures["samples"] == sum(figures["counts"]) == 360 and (tmp_path / "sheet.png").exists()
    refused = phalanx("data", DIGITS, "-o", "nowhere/sheet.png", cwd=tmp_path, expect=2)
    assert "there is no folder nowhere" in refused.errors
