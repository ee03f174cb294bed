"""Dividing a split into parts, and repeating its rarer classes: functions of the seed alone."""

import math
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.configs.data import DataConfig
from phalanx.configs.errors import UserError
from phalanx.data import facts
from phalanx.data.dataset import Dataset, Split
from phalanx.dist.randomness import key
from phalanx.dist.sampler import permute

Indices = NDArray[numpy.int64]


class Subset(facts.View):
    """Some samples of a dataset, in a given order, each as often as it is named.

    Args:
        indices: int64 `[samples]`, numbers of samples of the dataset.
    """

    def __init__(self, dataset: Dataset, indices: Indices):
        super().__init__(dataset)
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[int(self.indices[index])]

    @property
    def labels(self) -> Tensor | None:
        known = facts.labels(self.dataset)
        return None if known is None else known[torch.from_numpy(self.indices)]

    def class_counts(self) -> list[int] | None:
        known = self.labels
        if known is not None:
            return numpy.bincount(known.numpy(), minlength=len(self.classes)).tolist()
        if not hasattr(self.dataset, "counts_of"):
            return None
        total = numpy.zeros(len(self.classes), numpy.int64)
        for index in self.indices.tolist():
            total += self.dataset.counts_of(index)
        return total.tolist()

    def path(self, index: int) -> str:
        return facts.path(self.dataset, int(self.indices[index]))


def part(dataset: Dataset, config: DataConfig, split: Split, seed: int) -> Subset:
    """The part of a split that `data.val_fraction` or `data.fold` trains on, or the one that it holds out.

    With `data.stratify`, where each sample has one class and the dataset tells it (`labels`), every class is divided alike,
    to within one sample.

    Raises:
        UserError: where either part would be empty.
    """
    held_out = _held_out(_dealt(dataset, config.stratify, seed), config)
    chosen = numpy.flatnonzero(held_out if split == "val" else ~held_out)
    if len(chosen) == 0:
        said = f"data.fold={config.fold}" if config.fold else f"data.val_fraction={config.val_fraction}"
        left = "validate on" if split == "val" else "train on"
        raise UserError(f"{said}: of {len(dataset)} samples it leaves none to {left}. Choose another, or add samples.")
    return Subset(dataset, chosen)


def _shuffled(count: int, seed: int) -> Indices:
    return permute(numpy.arange(count, dtype=numpy.uint64), count, key(seed, "split")).astype(numpy.int64)


def _dealt(dataset: Dataset, stratify: bool, seed: int) -> Indices:
    """All samples in the order in which they are dealt out: at random; class after class if they are to be divided alike."""
    order = _shuffled(len(dataset), seed)
    known = facts.labels(dataset) if stratify else None
    if known is None:
        return order
    return order[numpy.argsort(known.numpy()[order], kind="stable")]


def _held_out(dealt: Indices, config: DataConfig) -> NDArray[numpy.bool_]:
    """Which samples are held out. Places are taken at even distances, so every run of them is divided alike."""
    places = numpy.arange(len(dealt))
    if config.fold is not None:
        which, of = map(int, config.fold.split("/"))
        taken = places % of == which - 1
    else:
        assert config.val_fraction is not None
        # Half a place ahead: a class is rounded to the nearest, not always down. The total is what was asked for, rounded.
        reached = numpy.floor(places * config.val_fraction + 0.5)
        taken = numpy.floor((places + 1) * config.val_fraction + 0.5) > reached
    held_out = numpy.zeros(len(dealt), bool)
    held_out[dealt[taken]] = True
    return held_out


def balanced(dataset: Dataset, seed: int) -> Subset:
    """Every sample at least once, and those of rarer classes again until each class has as many as the largest.

    How often two samples of a class come differs by one at most. Each time a sample comes it is another sample of the
    epoch, with an id and an augmentation of its own.

    Raises:
        UserError: where samples have not one class each.
    """
    known = facts.labels(dataset)
    if known is None:
        raise UserError(
            "data.sampling=class_balanced needs one class a sample: a dataset with the attribute `labels`. "
            "Set data.sampling=natural."
        )
    counts = numpy.bincount(known.numpy())
    largest = int(counts.max())
    order = _shuffled(len(dataset), seed)
    by_class = order[numpy.argsort(known.numpy()[order], kind="stable")]
    repeated, start = [], 0
    for count in counts.tolist():
        own = by_class[start : start + count]
        repeated.append(numpy.tile(own, math.ceil(largest / count))[:largest] if count else own)
        start += count
    return Subset(dataset, numpy.concatenate(repeated))
