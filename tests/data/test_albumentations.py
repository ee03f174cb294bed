"""Transforms of albumentations among a user's own augmentations: boxes, labels and masks stay with what they belong to."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from phalanx.configs.load import load
from phalanx.data.loading.loader import Samples
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.microbatches.sampler import Draw

PARTS = """
import albumentations as A


def flips():
    return A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], bbox_params=A.BboxParams("coco", label_fields=["x"]))


def crop():
    return A.RandomSizedCrop(min_max_height=(20, 40), size=(64, 64), p=1.0)


def dark():
    return A.RandomBrightnessContrast(brightness_limit=(-0.5, -0.5), contrast_limit=0, p=1.0)
"""
RECIPE = [
    "name=none", "data.name=shapes", "data.image_size=64", "data.mean=[0, 0, 0]", "data.std=[1, 1, 1]", "optim.lr=1",
    "train.steps=1", "train.global_batch=1", "train.micro_batch=1",
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "parts.py"
    path.write_text(PARTS)
    return str(path)


def _samples(file: str, task: str, target: str, names: str, count: int = 24) -> list[dict[str, Tensor]]:
    model = {"segmentation": "unet", "instance": "mask_rcnn"}[task]
    own = ", ".join(f"{file}:{name}" for name in names.split()) if names else ""
    options = f"data.options={{target: {target}, size: 64, train: {count}, val: 1}}"
    config = load([], [*RECIPE, f"task.name={task}", f"model.name={model}", options, f"data.augment.own=[{own}]"])
    training = open_split(config.data, "train", 0)
    samples = Samples(training, pipeline(config.data, training, "train"), 3)
    return [samples[Draw(0, number)] for number in range(count)]


def _boxes(masks: Tensor) -> Tensor:
    """Of masks [n, H, W], corners of pixels, [n, 4]."""
    rows, columns = masks.any(2), masks.any(1)
    pairs = [(line.int().argmax(1), line.shape[1] - line.flip(1).int().argmax(1)) for line in (columns, rows)]
    return torch.stack([pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]], dim=1).float()


def test_masks_and_boxes_follow_the_image(file: str) -> None:
    plain, flipped = (_samples(file, "instance", "boxes", names) for names in ("", "flips"))
    directions = set()
    for before, after in zip(plain, flipped, strict=True):
        (dims,) = (d for d in ([], [2], [1], [1, 2]) if torch.equal(before["image"].flip(d), after["image"]))
        directions.add(tuple(dims))
        assert torch.equal(before["masks"].flip(dims), after["masks"]) and torch.equal(before["labels"], after["labels"])
        torch.testing.assert_close(_boxes(after["masks"]), after["boxes"], atol=1.5, rtol=0)
    assert directions == {(), (1,), (2,), (1, 2)}
    again = _samples(file, "instance", "boxes", "flips")
    assert all(torch.equal(one["image"], other["image"]) for one, other in zip(flipped, again, strict=True))


def test_objects_that_a_crop_leaves_out_go_with_their_labels_and_masks(file: str) -> None:
    plain, cropped = (_samples(file, "instance", "boxes", names) for names in ("", "crop"))
    counts = [(len(before["boxes"]), len(after["boxes"])) for before, after in zip(plain, cropped, strict=True)]
    assert all(after <= before for before, after in counts) and any(after < before for before, after in counts)
    for after in cropped:
        assert len(after["labels"]) == len(after["masks"]) == len(after["boxes"])
        seen = after["masks"].flatten(1).any(1)
        # A box is cut at the border; what is seen of its object may be less.
        outside = (_boxes(after["masks"]) - after["boxes"])[seen]
        assert (outside[:, :2] > -4).all() and (outside[:, 2:] < 4).all()


def test_a_mask_of_classes_moves_and_colours_change_the_image_alone(file: str) -> None:
    plain, changed = (_samples(file, "segmentation", "mask", names, 8) for names in ("", "flips dark"))
    for before, after in zip(plain, changed, strict=True):
        dims = next(d for d in ([], [2], [1], [1, 2]) if torch.equal(before["mask"].flip([n - 1 for n in d]), after["mask"]))
        assert after["mask"].dtype == torch.int64
        assert (after["image"] <= before["image"].flip(dims) + 1e-6).all() and after["image"].mean() < before["image"].mean()
