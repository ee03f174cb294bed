"""Dividing a split: by the seed alone, without overlap or loss, every class alike."""

from pathlib import Path

import numpy
import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.data.open import open_split
from phalanx.data.splits import Subset, balanced, part
from tests.data.pictures import config, image_folder


class Numbered:
    """Samples that are their own number, `counts` of each class."""

    channels, mean, std = 1, (0.5,), (0.5,)

    def __init__(self, *counts: int, labels: bool = True):
        self.classes = tuple(map(str, range(len(counts))))
        if labels:
            self.labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        self._count = sum(counts)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        return {"image": torch.full((1, 1, 1), float(index)), "target": index}


def numbers(dataset: Dataset) -> list[int]:
    return [int(dataset[i]["target"]) for i in range(len(dataset))]


@pytest.mark.parametrize("keys", [{"val_fraction": 0.2}, {"fold": "2/5"}, {"val_fraction": 0.37, "stratify": False}])
def test_both_parts_together_are_the_whole_and_the_seed_decides(keys: dict[str, object]) -> None:
    whole, settings = Numbered(40, 10, 50), config("digits", **keys)
    training, validation = (numbers(part(whole, settings, split, 1)) for split in ("train", "val"))
    assert sorted(training + validation) == list(range(100))
    assert len(validation) == {0.2: 20, 0.37: 37}.get(keys.get("val_fraction"), 20)  # type: ignore[call-overload]
    assert numbers(part(whole, settings, "val", 1)) == validation
    assert numbers(part(whole, settings, "val", 2)) != validation


@pytest.mark.parametrize("of", [2, 3, 5])
def test_folds_are_disjoint_and_complete_and_divide_every_class_alike(of: int) -> None:
    whole = Numbered(40, 11, 50, 3)
    folds = [part(whole, config("digits", fold=f"{which}/{of}"), "val", 1) for which in range(1, of + 1)]
    assert sorted(number for fold in folds for number in numbers(fold)) == list(range(104))
    counts = numpy.array([dataset_info.class_counts(fold) for fold in folds])
    assert (counts.max(0) - counts.min(0) <= 1).all()
    assert numpy.ptp(counts.sum(1)) <= 1


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_a_stratified_share_is_right_in_every_class(fraction: float) -> None:
    whole = Numbered(400, 11, 50, 200)
    counts = dataset_info.class_counts(part(whole, config("digits", val_fraction=fraction), "val", 1))
    assert counts is not None and sum(counts) == int(fraction * len(whole) + 0.5)
    assert all(abs(count - fraction * own) <= 1 for count, own in zip(counts, (400, 11, 50, 200), strict=True))


def test_a_dataset_that_does_not_tell_its_classes_is_divided_at_random() -> None:
    whole = Numbered(10, 10, labels=False)
    parts = [numbers(part(whole, config("digits", val_fraction=0.3), split, 1)) for split in ("train", "val")]
    assert sorted(parts[0] + parts[1]) == list(range(20)) and len(parts[1]) == 6
    with pytest.raises(UserError, match="class_balanced needs one class per sample"):
        balanced(whole, 1)


def test_a_part_without_samples_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.val_fraction=0\.01: of 20 samples it leaves none to validate on"):
        part(Numbered(10, 10), config("digits", val_fraction=0.01), "val", 1)
    with pytest.raises(UserError, match=r"data\.fold=4/4: of 3 samples it leaves none to validate on"):
        part(Numbered(3), config("digits", fold="4/4"), "val", 1)


def test_balanced_classes_have_as_many_samples_each_and_none_is_lost() -> None:
    whole = Numbered(40, 7, 13)
    dataset = balanced(whole, 1)
    assert dataset_info.class_counts(dataset) == [40, 40, 40]
    times = numpy.bincount(numbers(dataset), minlength=60)
    assert times.min() == 1
    for start, stop in ((0, 40), (40, 47), (47, 60)):
        assert numpy.ptp(times[start:stop]) <= 1
    assert numbers(balanced(whole, 1)) == numbers(dataset) != numbers(balanced(whole, 2))
    assert dataset_info.class_counts(balanced(Numbered(2, 0, 1), 1)) == [2, 0, 2]


def test_keys_of_the_recipe_divide_and_balance(tmp_path: Path) -> None:
    image_folder(tmp_path, (20, 5))
    settings = config("image_folder", tmp_path, fold="1/5", sampling="class_balanced")
    training, validation = (open_split(settings, split, 7) for split in ("train", "val"))
    assert dataset_info.class_counts(training) == [16, 16] and dataset_info.class_counts(validation) == [4, 1]
    files = [{dataset_info.path(dataset, i) for i in range(len(dataset))} for dataset in (training, validation)]
    assert not files[0] & files[1] and len(files[0] | files[1]) == 25
    for i in (0, 20, 31):
        assert training[i]["target"] == dataset_info.labels(training)[i]


def test_digits_can_be_divided_otherwise() -> None:
    training, validation = (open_split(config("digits", val_fraction=0.1), split) for split in ("train", "val"))
    assert (len(training), len(validation)) == (1293, 144)
    assert isinstance(training, Subset) and training.mean == (0.305,)
