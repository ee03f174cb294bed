"""A class that is not learnt: `data.ignore_index` names it, or its name suggests that it should. No torch here."""

import re
from dataclasses import dataclass

# Usual names of ignored pixels; a background may well be a class, so it comes last.
_NOT_MEANT_TO_BE_LEARNT = (
    *("void", "ignore", "ignored", "ignoreregion", "unlabeled", "unlabelled", "unlabeledpixels", "unclassified", "undefined"),
    *("unknown", "dontcare", "nodata", "nolabel", "background"),
)


@dataclass(frozen=True)
class Learnt:
    """Which of the classes in masks are learnt.

    Attributes:
        classes: their names.
        numbers: the class of each learnt number in a mask.
        ignored: the number, in samples, of ignored pixels.
        named: the class that `data.ignore_index` names; None if it is a number beyond the classes.
    """

    classes: tuple[str, ...]
    numbers: dict[int, int]
    ignored: int
    named: str | None


def learnt(classes: tuple[str, ...], ignore_index: int) -> Learnt:
    """All classes; or all but the one that `data.ignore_index` names, those after it numbered one lower."""
    if ignore_index >= len(classes):
        return Learnt(classes, {number: number for number in range(len(classes))}, ignore_index, None)
    kept = [number for number in range(len(classes)) if number != ignore_index]
    ignored = 255 if len(kept) <= 255 else 65535  # beyond the remaining classes
    names = tuple(classes[number] for number in kept)
    return Learnt(names, {number: index for index, number in enumerate(kept)}, ignored, classes[ignore_index])


def not_learnt(classes: tuple[str, ...]) -> int | None:
    """The number of the class whose name usually marks ignored pixels; None without one."""
    spelt = [re.sub(r"[\W_]+", "", name.casefold()) for name in classes]
    return next((spelt.index(word) for word in _NOT_MEANT_TO_BE_LEARNT if word in spelt), None)


def hint(classes: tuple[str, ...]) -> list[str]:
    """A message, if a class has a name that usually marks ignored pixels."""
    number = not_learnt(classes)
    if number is None:
        return []
    return [
        f"classes.txt: {classes[number]} is learnt as a class like any other; with data.ignore_index={number} its "
        "pixels would be ignored."
    ]
