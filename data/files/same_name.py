"""Names that are the same to their readers, but not byte by byte: `é` as one character or as two. No torch here.

macOS writes names of files decomposed (NFD), most other programs composed (NFC): Unicode Standard Annex 15.
"""

import os
import unicodedata
from pathlib import Path
from typing import Literal

_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")


def composed(name: str) -> str:
    """A name in the one form by which names are compared."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def as_stored(folder: Path, name: str) -> str:
    """A file's name in the form in which it lies in a folder; as it is where there is none in any form."""
    if name.isascii() or os.path.lexists(folder / name):
        return name
    forms = (unicodedata.normalize(form, name) for form in _FORMS)
    return next((form for form in forms if os.path.lexists(folder / form)), name)
