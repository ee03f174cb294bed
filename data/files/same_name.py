"""Names that look the same but differ in bytes: `é` as one character or as two. No torch here.

macOS decomposes the names of files (NFD), most other programs compose them (NFC): Unicode Standard Annex 15.
"""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")


def composed(name: str) -> str:
    """A name in the form in which names are compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def as_stored(folder: Path, name: str) -> str:
    """A file's name in the form that a folder has; unchanged if it has none."""
    if name.isascii() or os.path.lexists(folder / name):
        return name
    forms = (unicodedata.normalize(form, name) for form in _FORMS)
    return next((form for form in forms if os.path.lexists(folder / form)), name)


def one_spelling(names: Iterable[str]) -> list[str]:
    """Names that are the same to their readers once, as written where all are written alike."""
    spelled: dict[str, str] = {}
    for name in names:
        key = composed(name)
        spelled[key] = name if spelled.get(key, name) == name else key
    return list(spelled.values())


def differ_in_case(where: str, names: Sequence[str]) -> tuple[str, ...]:
    """A sentence, where names of classes are the same but for capitals and small letters, or for blanks."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(" ".join(composed(name).casefold().split()), name)
        if other != name:
            return (f"{where}: the classes {other!r} and {name!r} are learnt as two. If they are one, write them alike.",)
    return ()
