"""Matches the classes of a split to those of training by name, as COCO's files may order them differently."""

from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset

_NAMED = 5


def by_name(dataset: Dataset, training: Dataset, split: str) -> Dataset:
    """A split with the classes of training, matched by name.

    Raises:
        UserError: if it has a class that training lacks, or ambiguous names.
    """
    own, wanted = tuple(dataset.classes), tuple(training.classes)
    if own == wanted:
        return dataset
    for names, which in ((own, f"the split {split}"), (wanted, "the training split")):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(
                f"{which} has several classes named {twice[0]}, so that those of both splits cannot be matched by name. "
                "Give each class a unique name."
            )
    counts = dataset_info.class_counts(dataset) if set(own) - set(wanted) else None
    unknown = [name for place, name in enumerate(own) if name not in wanted and (counts is None or counts[place])]
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise UserError(
            f"the split {split} has classes that the training split lacks: {', '.join(unknown[:_NAMED])}{more}; training has "
            f"{', '.join(wanted[:_NAMED])}{', ...' if len(wanted) > _NAMED else ''}. Name the classes alike in both."
        )
    return InOrder(dataset, training)


class InOrder(dataset_info.DatasetView):
    """A dataset whose classes are renumbered to those of another one, by name.

    Args:
        dataset: may lack some classes; a class that only it has, without samples, is numbered after all others.
        training: defines the classes.
    """

    def __init__(self, dataset: Dataset, training: Dataset):
        super().__init__(dataset)
        self.classes = tuple(training.classes)
        numbers = {name: number for number, name in enumerate(self.classes)}
        self._numbers = torch.tensor([numbers.get(name, len(numbers)) for name in dataset.classes])
        own = dict(zip(dataset.classes, dataset_info.category_ids(dataset), strict=True))
        known = [number for number in [*own.values(), *dataset_info.category_ids(training)] if isinstance(number, int)]
        spare = max(known, default=0) + 1
        self._ids: list[int | str] = [own.get(name, spare + number) for name, number in numbers.items()]

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample: dict[str, Any] = dict(self.dataset[index])
        if "labels" in sample:
            sample["labels"] = self._numbers[sample["labels"]]
        if "mask" in sample:
            sample["mask"] = self._in_mask(sample["mask"])
        if "target" in sample:
            sample["target"] = self._target(sample["target"])
        return sample

    def _in_mask(self, mask: Tensor) -> Tensor:
        found = mask.clone()
        for old, new in enumerate(self._numbers.tolist()):
            found[mask == old] = new
        return found

    def _target(self, target: Any) -> Any:
        if not isinstance(target, Tensor) or not target.is_floating_point():
            return int(self._numbers[int(target)]) if int(target) >= 0 else int(target)
        found = target.new_zeros(len(self.classes) + 1)
        found[self._numbers] = target
        return found[:-1]

    @property
    def labels(self) -> Tensor | None:
        known = dataset_info.labels(self.dataset)
        return None if known is None else torch.where(known >= 0, self._numbers[known.clamp(min=0)], known)

    def counts_of(self, index: int) -> NDArray[numpy.int64] | None:
        counts = dataset_info.counts_of(self.dataset, index)
        return None if counts is None else self._in_order(counts)

    def class_counts(self) -> list[int] | None:
        counts = dataset_info.class_counts(self.dataset)
        return None if counts is None else self._in_order(numpy.array(counts)).tolist()

    def _in_order(self, counts: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
        found = numpy.zeros(len(self.classes) + 1, counts.dtype)
        found[self._numbers.numpy()] = counts
        return found[:-1]

    @property
    def category_ids(self) -> list[int | str]:
        return self._ids
