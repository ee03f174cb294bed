"""How folders and lists of a split are spelt. No torch here."""

_SPELLINGS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}


def spellings(split: str) -> tuple[str, ...]:
    """The split's own name, then those that other tools give to it."""
    return _SPELLINGS.get(split, (split,))
