"""Pictures made on the fly."""

import hashlib
import time

import numpy
import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.formats.shapes import SHAPES
from phalanx.data.open import open_split
from tests.data.pictures import config


def test_the_same_pictures_are_made_on_every_machine() -> None:
    """Change these words only with the pictures: every figure that was measured on them is void then."""
    words = {}
    for target in ("class", "mask", "boxes"):
        dataset = open_split(config("shapes", options={"target": target}), "train")
        content = hashlib.sha256()
        for i in range(20):
            for _, value in sorted(dataset[i].items()):
                content.update(torch.as_tensor(value).numpy().tobytes())
        words[target] = content.hexdigest()[:16]
    assert words == {"class": "ec7f6316994da30d", "mask": "3ab1320123d7d881", "boxes": "9daaa25a6cf9bd14"}


def test_no_picture_comes_twice_in_either_split_or_with_another_seed() -> None:
    seen = set()
    for seed in (0, 1):
        for split in ("train", "val"):
            dataset = open_split(config("shapes", options={"seed": seed, "train": 150, "val": 150, "size": 16}), split)
            seen |= {dataset[i]["image"].numpy().tobytes() for i in range(len(dataset))}
    assert len(seen) == 600


def test_classes_alternate_and_sizes_are_as_asked() -> None:
    dataset = open_split(config("shapes", options={"size": 40, "train": 16, "val": 3}), "train")
    assert dataset_info.kind(dataset) == "classification" and dataset_info.class_counts(dataset) == [2] * 8
    assert [dataset[i]["target"] for i in range(16)] == dataset_info.labels(dataset).tolist()
    assert dataset[0]["image"].shape == (3, 40, 40) and dataset[0]["image"].dtype == torch.uint8
    assert len(open_split(config("shapes", options={"val": 3}), "val")) == 3


def test_the_statistics_are_those_of_the_pictures() -> None:
    for target in ("class", "mask"):
        dataset = open_split(config("shapes", options={"target": target}), "train")
        images = torch.stack([dataset[i]["image"] for i in range(300)]).float() / 255
        assert images.mean().item() == pytest.approx(dataset.mean[0], abs=0.02)
        assert images.std().item() == pytest.approx(dataset.std[0], abs=0.02)


def test_boxes_and_masks_tell_of_the_same_shapes() -> None:
    boxes = open_split(config("shapes", options={"target": "boxes"}), "train")
    masks = open_split(config("shapes", options={"target": "mask"}), "train")
    assert dataset_info.kind(boxes) == "detection" and boxes.classes == SHAPES and masks.classes == ("background", *SHAPES)
    counts = numpy.zeros(8, int)
    for i in range(100):
        one, other = boxes[i], masks[i]
        assert torch.equal(one["image"], other["image"])
        assert 1 <= len(one["boxes"]) == len(one["labels"]) == len(one["masks"]) <= 6
        flat = torch.zeros(64, 64, dtype=torch.uint8)
        for box, label, mask in zip(one["boxes"].tolist(), one["labels"].tolist(), one["masks"], strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert not (flat[mask]).any(), "what one shape hides is not of another"
            flat[mask] = label + 1
        assert torch.equal(flat, other["mask"])
        counts += numpy.bincount(one["labels"].numpy(), minlength=8)
    assert counts.min() > 10
    few = open_split(config("shapes", options={"target": "boxes", "train": 100}), "train")
    assert dataset_info.class_counts(few) == counts.tolist()


def test_a_picture_takes_less_than_two_milliseconds() -> None:
    dataset = open_split(config("shapes", options={"target": "boxes"}), "train")
    start = time.process_time()
    for i in range(100):
        dataset[i]
    assert (time.process_time() - start) / 100 < 2e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sise": 3}, "data.options.sise: shapes takes size, train"),
        ({"size": 8}, "data.options.size=8: must be an integer of at least 16"),
        ({"train": "many"}, "data.options.train=many: must be an integer"),
        ({"target": "cls"}, "data.options.target=cls: shapes has class, mask, boxes"),
        ({"train": 0}, "the split 'train' has no samples"),
    ],
)
def test_options_that_cannot_be_are_reported(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as raised:
        open_split(config("shapes", options=options), "train")
    assert said in str(raised.value)


def test_other_channels_are_made_of_the_colours() -> None:
    dataset = open_split(config("shapes", mode="grey"), "train")
    assert dataset.channels == len(dataset.mean) == len(dataset[0]["image"]) == 1
    assert dataset_info.labels(dataset) is not None
