"""Checks that masks hold anything to learn: with a single class, or only ignored pixels, a low loss means nothing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from phalanx.data.bad_sample import Unreadable
from phalanx.data.dataset import Dataset, Split
from phalanx.data.formats.masked import MaskedImages
from phalanx.data.splits import Indices

FIRST, MOST = 16, 10_000  # masks that are checked, and the most if those are uniform


@dataclass(frozen=True)
class Seen:
    """The content of some masks.

    Attributes:
        masks: their number.
        counts: pixels of each class found.
        ignored: number of ignored pixels.
    """

    masks: int = 0
    counts: dict[int, int] | None = None
    ignored: int = 0

    def of_several_classes(self) -> bool:
        return len(self.counts or {}) > 1

    def to_json(self) -> dict[str, Any]:
        return {"masks": self.masks, "counts": sorted((self.counts or {}).items()), "ignored": self.ignored}


def look(dataset: Dataset, numbers: Indices, ignore_index: int, beat: Callable[[], None]) -> Seen:
    """Reads masks until two classes are found.

    Args:
        numbers: the samples' numbers.
        beat: called again and again while it works.
    """
    seen = Seen(counts={})
    for number in numbers.tolist():
        beat()
        with suppress(Unreadable):  # reported, or skipped, in training
            mask = dataset.mask(number) if isinstance(dataset, MaskedImages) else dataset[number]["mask"]
            values, counts = torch.as_tensor(mask).unique(return_counts=True)
            seen = _with(seen, dict(zip(values.tolist(), counts.tolist(), strict=True)), ignore_index)
        if seen.of_several_classes():
            break
    return seen


def _with(seen: Seen, found: dict[int, int], ignore_index: int) -> Seen:
    ignored = found.pop(ignore_index, 0)
    return merged([seen.to_json(), Seen(1, found, ignored).to_json()])


def merged(parts: list[dict[str, Any]]) -> Seen:
    """Merges the results of several ranks."""
    counts: dict[int, int] = {}
    for part in parts:
        for number, count in part["counts"]:
            counts[number] = counts.get(number, 0) + count
    return Seen(sum(part["masks"] for part in parts), counts, sum(part["ignored"] for part in parts))


def sentence(seen: Seen, dataset: Dataset, split: Split, ignore_index: int, configured: int) -> str | None:
    """The problem of a split's masks; None if they hold several classes.

    Args:
        ignore_index: the number, in samples, of ignored pixels.
        configured: the same in `data.ignore_index`.
    """
    if seen.of_several_classes() or not seen.masks:
        return None
    counts = seen.counts or {}
    total = sum(counts.values()) + seen.ignored
    masks = f"{seen.masks} mask{'' if seen.masks == 1 else 's'} of the {'training' if split == 'train' else 'validation'} split"
    nothing = "Nothing can be learnt." if split == "train" else "Metrics of this split are meaningless."
    if not counts:
        return (
            f"{masks}: each of {total:,} pixels is {configured}, which is data.ignore_index and ignored. {nothing} "
            "Store the numbers of classes, or set another data.ignore_index."
        )
    (number,) = counts
    name = dataset.classes[number] if 0 <= number < len(dataset.classes) else number
    only = f"{masks}: of {total:,} pixels all that are not ignored have the class {name}"
    if not seen.ignored:
        return f"{only}. {nothing} Add masks of other classes."
    return (
        f"{only}, and {seen.ignored:,} are {configured}, which is data.ignore_index and ignored. {nothing} "
        f"If {configured} stands for an object, store the number of its class instead."
    )
