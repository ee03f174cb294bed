"""Which images come how often, and which together: repeat factors of rare classes, micro-batches of one aspect."""

import math
from typing import Any

import numpy
import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.loading.order import stream
from phalanx.data.splits import Subset, resampled, with_objects
from phalanx.dist.microbatches.grouped_sampler import GroupedStream
from tests.data.examples import Noise, assert_same, loader, recipe, steps


class Aspects(Noise):
    """Every third image is high, the others are wide."""

    def __init__(self) -> None:
        super().__init__("detection", samples=45)
        self.sizes = numpy.array([(31, 20) if index % 3 == 0 else (20, 31) for index in range(45)], numpy.int32)

    def __getitem__(self, index: int) -> dict[str, Any]:
        height, width = self.sizes[index].tolist()
        image = torch.full((3, height, width), index, dtype=torch.uint8)
        return super().__getitem__(index) | {"image": image, "masks": torch.zeros(index % 3, height, width, dtype=torch.bool)}


GROUPED = recipe("data.fit=short_side", "data.aspect_groups=true", "data.augment.flip=0.5")


def test_a_micro_batch_is_wide_or_high_and_every_image_comes_once_an_epoch() -> None:
    micro_batches = [one for step in steps([loader(GROUPED, Aspects())], 0, 45) for one in step]  # 16 epochs
    mixed = 0
    for one in micro_batches:
        wide = {image.shape[2] > image.shape[1] for image in one["image"]}
        mixed += len(wide) > 1
        assert all(min(image.shape[1:]) <= 16 and max(image.shape[1:]) <= 24 for image in one["image"])
    assert mixed <= 2 * 16  # of 180: one within an epoch, one at its end
    draws = [draw for one in micro_batches for draw in zip(one["epoch"].tolist(), one["id"].tolist(), strict=True)]
    assert sorted(draws) == [(epoch, number) for epoch in range(16) for number in range(45)]


def test_grouped_micro_batches_are_the_same_for_any_workers_and_ranks_and_after_a_resume() -> None:
    alone = steps([loader(GROUPED, Aspects())], 0, 4)
    for world, workers in ((1, 3), (2, 1), (4, 0)):
        assert_same(steps([loader(GROUPED, Aspects(), rank, world, workers) for rank in range(world)], 0, 4), alone)
    assert_same(steps([loader(GROUPED, Aspects())], 2, 4), alone[2:])


def test_groups_follow_the_images_of_a_part() -> None:
    part = Subset(Aspects(), numpy.array([3, 4, 0, 0]))
    sizes = dataset_info.sizes(Subset(part, numpy.array([1, 2])))
    assert sizes is not None and sizes.tolist() == [[20, 31], [31, 20]]


def test_bins_of_aspects_are_those_of_torchvision_s_reference() -> None:
    """`create_aspect_ratio_groups(k=3)`: edges 2^-1, 2^-2/3, ..., 2, of width over height; an image at an edge is above it."""
    widths = {49: 0, 50: 1, 62: 1, 63: 2, 79: 2, 80: 3, 99: 3, 100: 4, 125: 4, 126: 5, 199: 6, 200: 7}  # of images 100 high

    class Many(Noise):
        def __init__(self) -> None:
            super().__init__("detection", samples=len(widths))
            self.sizes = numpy.array([(100, width) for width in widths], numpy.int32)

    config = recipe("data.fit=short_side", "data.aspect_groups=true", "data.aspect_bins=3", "train.micro_batch=2")
    found = stream(config, Many())
    assert isinstance(found, GroupedStream)
    assert {sample: group for group, samples in enumerate(found.groups) for sample in samples.tolist()} == dict(
        enumerate(widths.values())
    )


def test_images_without_objects_are_left_out_of_training_where_that_is_asked_for() -> None:
    assert with_objects(Objects()).indices.tolist() == list(range(199))
    with pytest.raises(UserError, match="no image has objects to learn"):
        with_objects(Subset(Objects(), numpy.array([199])))
    with pytest.raises(UserError, match="is for detection"):
        with_objects(Noise())


def test_aspect_groups_are_refused_where_they_mean_nothing() -> None:
    with pytest.raises(UserError, match=r"data\.fit=stretch gives all the same size"):
        loader(recipe("data.aspect_groups=true"), Aspects())
    with pytest.raises(UserError, match=r"needs the height and width of every image, which data\.name=digits lacks"):
        loader(recipe("data.fit=short_side", "data.aspect_groups=true"), Noise("detection"))


class Objects(Noise):
    """Class 0 is in 199 of 200 images, class 1 in 50 of them, class 2 in two; the last has no object."""

    def __init__(self) -> None:
        super().__init__("detection", samples=200)

    def counts_of(self, index: int) -> Any:
        return numpy.array([3, 0 if index % 4 else 2, 1 if index in (8, 13) else 0]) * (index != 199)


def _drawn(threshold: float, seed: int = 1) -> list[int]:
    """The images that the samples of an epoch are."""
    even: list[int] = resampled(Objects(), recipe(f"data.repeat_threshold={threshold}").data, seed).indices.tolist()
    return even


def test_images_with_rare_objects_come_as_often_as_their_repeat_factors_say() -> None:
    times = numpy.bincount(_drawn(0.5), minlength=200)
    rare, less = math.sqrt(0.5 / 0.01), math.sqrt(0.5 / 0.25)  # 7.07 and 1.41
    for index in (8, 13):
        assert times[index] in (7, 8)
    middle = [times[index] for index in range(0, 200, 4) if index != 8]
    assert set(middle) == {1, 2} and abs(sum(middle) - less * len(middle)) < 6
    assert all(times[index] == 1 for index in range(200) if index % 4 and index != 13)
    assert times.sum() == math.floor(2 * rare + 49 * less + 149 + 0.5)


def test_without_rare_classes_every_image_comes_once() -> None:
    assert sorted(_drawn(0.001)) == list(range(200))


def test_which_images_come_again_follows_from_the_seed() -> None:
    assert _drawn(0.5) == _drawn(0.5) != _drawn(0.5, seed=2)


def test_boxes_are_counted_as_often_as_they_come() -> None:
    even = resampled(Objects(), recipe("data.repeat_threshold=0.5").data, 1)
    expected = sum(Objects().counts_of(index) for index in even.indices.tolist())
    assert dataset_info.class_counts(even) == expected.tolist()
    half = Subset(Objects(), numpy.arange(100))
    assert dataset_info.class_counts(resampled(half, recipe().data, 1)) == dataset_info.class_counts(
        half
    )  # a part of a split, too


def test_objects_that_are_not_counted_cannot_be_evened_out() -> None:
    with pytest.raises(UserError, match=r"data\.sampling=class_balanced needs .* for detection, one with the method"):
        resampled(Noise("detection"), recipe().data, 1)
