"""Dividing a split into parts, and repeating its rarer classes: functions of the seed alone."""

import math
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset, Split
from phalanx.data.files.string_array import StringArray
from phalanx.dist.microbatches.randomness import key
from phalanx.dist.microbatches.sampler import permute

Indices = NDArray[numpy.int64]


class Subset(dataset_info.DatasetView):
    """Some samples of a dataset, in a given order, possibly repeated.

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
        known = dataset_info.labels(self.dataset)
        return None if known is None else known[torch.from_numpy(self.indices)]

    @property
    def sizes(self) -> NDArray[numpy.int32] | None:
        known = dataset_info.sizes(self.dataset)
        return None if known is None else known[self.indices]

    def class_counts(self) -> list[int] | None:
        known = self.labels
        if known is not None:
            return numpy.bincount(known.numpy(), minlength=len(self.classes)).tolist()
        total = numpy.zeros(len(self.classes), numpy.int64)
        for index in range(len(self)):
            own = self.counts_of(index)
            if own is None:
                return None
            total += own
        return total.tolist()

    def counts_of(self, index: int) -> Indices | None:
        return dataset_info.counts_of(self.dataset, int(self.indices[index]))

    def has_objects(self, index: int) -> bool | None:
        return dataset_info.has_objects(self.dataset, int(self.indices[index]))

    def path(self, index: int) -> str:
        return dataset_info.path(self.dataset, int(self.indices[index]))

    def sample_names(self) -> StringArray | None:
        known = dataset_info.sample_names(self.dataset)
        return None if known is None else known.taken(self.indices)

    def fingerprints(self) -> NDArray[numpy.uint64] | None:
        known = dataset_info.fingerprints(self.dataset)
        return None if known is None else known[self.indices]

    def image_id(self, index: int) -> int | str:
        return dataset_info.image_id(self.dataset, int(self.indices[index]))


def part(dataset: Dataset, config: DataConfig, split: Split, seed: int) -> Subset:
    """The part of a split that `data.val_fraction` or `data.fold` trains on, or the one that it holds out.

    With `data.stratify`, if each sample has one class and the dataset has `labels`, every class is divided equally, to
    within one sample.

    Raises:
        UserError: if either part would be empty.
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
    """All samples in the order in which they are divided: random; by class if stratified."""
    order = _shuffled(len(dataset), seed)
    known = dataset_info.labels(dataset) if stratify else None
    if known is None:
        return order
    return order[numpy.argsort(known.numpy()[order], kind="stable")]


def _held_out(dealt: Indices, config: DataConfig) -> NDArray[numpy.bool_]:
    """Which samples are held out. Places are taken at even distances, so every range of them is divided equally."""
    places = numpy.arange(len(dealt))
    if config.fold is not None:
        which, of = map(int, config.fold.split("/"))
        taken = places % of == which - 1
    else:
        assert config.val_fraction is not None
        # Half a place ahead: a class is rounded to the nearest, not always down. The total is the requested one, rounded.
        reached = numpy.floor(places * config.val_fraction + 0.5)
        taken = numpy.floor((places + 1) * config.val_fraction + 0.5) > reached
    held_out = numpy.zeros(len(dealt), bool)
    held_out[dealt[taken]] = True
    return held_out


def resampled(dataset: Dataset, config: DataConfig, seed: int) -> Subset:
    """`data.sampling=class_balanced`: rarer classes repeated; in detection, images with objects of rare classes.

    Raises:
        UserError: if the samples' classes are unknown.
    """
    if dataset_info.kind(dataset) == "detection" and dataset_info.counts_of(dataset, 0) is not None:  # all or none
        return with_rare_objects_repeated(dataset, config.repeat_threshold, seed)
    return balanced(dataset, seed)


def with_objects(dataset: Dataset) -> Subset:
    """The images that have objects.

    Raises:
        UserError: if the data is not for detection, or no image has any.
    """
    if dataset_info.kind(dataset) != "detection" or dataset_info.has_objects(dataset, 0) is None:
        raise UserError("data.without_objects=leave_out is for detection, where the boxes of each image are known. Set keep.")
    chosen = [index for index in range(len(dataset)) if dataset_info.has_objects(dataset, index)]
    if not chosen:
        raise UserError("data.without_objects=leave_out: no image has objects to learn. Check the annotations, or set keep.")
    return Subset(dataset, numpy.array(chosen, numpy.int64))


def balanced(dataset: Dataset, seed: int) -> Subset:
    """Every sample at least once, and those of rarer classes again until each class has as many as the largest.

    The numbers of repeats of two samples of a class differ by one at most. Each repeat is another sample of the epoch, with
    its own id and augmentation.

    Raises:
        UserError: if samples do not have one class each.
    """
    known = dataset_info.labels(dataset)
    if known is None:
        raise UserError(
            "data.sampling=class_balanced needs one class per sample: a dataset with the attribute `labels`; for detection, "
            "one with the method `counts_of`. Set data.sampling=natural."
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


def with_rare_objects_repeated(dataset: Dataset, threshold: float, seed: int) -> Subset:
    """Every image at least once, and those with objects of rare classes again.

    Repeat factors: Gupta, Dollar and Girshick, LVIS, arXiv:1908.03195v2, appendix B. A class that is in a share f of all images
    has the factor max(1, sqrt(threshold / f)), and an image the largest of its classes'. There an image is repeated in each
    epoch a random number of times, whose mean is the factor; here the same images are repeated in all epochs, by their factors
    rounded down or up, with the sum of the factors as the total.
    """
    there = [numpy.flatnonzero(_counts_of(dataset, index)) for index in range(len(dataset))]
    share = numpy.bincount(numpy.concatenate(there), minlength=len(dataset.classes)) / len(dataset)
    factors = numpy.sqrt(threshold / numpy.where(share > 0, share, 1.0))
    own = numpy.array([factors[classes].max(initial=1.0) for classes in there])
    order = _shuffled(len(dataset), seed)
    reached = numpy.floor(numpy.cumsum(own[order]) + 0.5).astype(numpy.int64)
    return Subset(dataset, numpy.repeat(order, numpy.diff(reached, prepend=0)))


def _counts_of(dataset: Dataset, index: int) -> Indices:
    counts = dataset_info.counts_of(dataset, index)
    assert counts is not None
    return counts
