"""Whether masks hold anything to learn: pixels of one class alone, or none that counts, make a good loss of nothing."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from phalanx.data.bad_sample import Unreadable
from phalanx.data.dataset import Dataset, Split
from phalanx.data.formats.masked import MaskedImages
from phalanx.data.splits import Indices

FIRST, MOST = 16, 10_000  # masks that are looked at, and of those that make suspicious


@dataclass(frozen=True)
class Seen:
    """What some masks hold.

    Attributes:
        masks: their number.
        counts: pixels of each class that was met.
        ignored: pixels that count for nothing.
    """

    masks: int = 0
    counts: dict[int, int] | None = None
    ignored: int = 0

    def of_several_classes(self) -> bool:
        return len(self.counts or {}) > 1

    def to_json(self) -> dict[str, Any]:
        return {"masks": self.masks, "counts": sorted((self.counts or {}).items()), "ignored": self.ignored}


def look(dataset: Dataset, numbers: Indices, ignore_index: int, beat: Callable[[], None]) -> Seen:
    """Reads masks until two classes are met.

    Args:
        numbers: of the samples.
        beat: called again and again while it works.
    """
    seen = Seen(counts={})
    for number in numbers.tolist():
        beat()
        with suppress(Unreadable):  # told, or passed over, by whoever learns from it
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
    """What several ranks saw."""
    counts: dict[int, int] = {}
    for part in parts:
        for number, count in part["counts"]:
            counts[number] = counts.get(number, 0) + count
    return Seen(sum(part["masks"] for part in parts), counts, sum(part["ignored"] for part in parts))


def sentence(seen: Seen, dataset: Dataset, split: Split, ignore_index: int, told_as: int) -> str | None:
    """What is wrong with the masks of a split; None where they hold several classes.

    Args:
        ignore_index: the number, in samples, of pixels that count for nothing.
        told_as: the same as `data.ignore_index` has it.
    """
    if seen.of_several_classes() or not seen.masks:
        return None
    counts = seen.counts or {}
    total = sum(counts.values()) + seen.ignored
    masks = f"{seen.masks} mask{'' if seen.masks == 1 else 's'} of the {'training' if split == 'train' else 'validation'} split"
    nothing = "Nothing can be learnt." if split == "train" else "Figures of this split mean nothing."
    if not counts:
        return (
            f"{masks}: each of {total:,} pixels is {told_as}, which is data.ignore_index and counts for nothing. {nothing} "
            "Store the numbers of classes, or set another data.ignore_index."
        )
    (number,) = counts
    name = dataset.classes[number] if 0 <= number < len(dataset.classes) else number
    only = f"{masks}: of {total:,} pixels all that count are of the class {name}"
    if not seen.ignored:
        return f"{only}. {nothing} Add masks of other classes."
    return (
        f"{only}, and {seen.ignored:,} are {told_as}, which is data.ignore_index and counts for nothing. {nothing} "
        f"If {told_as} stands for an object, store the number of its class instead."
    )
