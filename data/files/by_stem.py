"""Files with the same name except for the suffix: `7.jpg` and `7.xml`, `7.TXT`. No torch here."""

import os
from collections.abc import Sequence
from pathlib import Path

from phalanx.data.files.same_name import composed


class ByStem:
    """The files of a folder and its subfolders, by name without suffix.

    Args:
        suffixes: the accepted ones, in lower case, preferred ones first; files may have them in any case.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]):
        self._folder = folder
        self._ranks = {suffix: rank for rank, suffix in enumerate(suffixes)}
        self._listed: dict[str, dict[str, str]] = {}

    def __call__(self, stem: str) -> str | None:
        """The file's name, relative to the folder; None if there is none."""
        place, name = os.path.split(stem)
        if place not in self._listed:
            self._listed[place] = self._listing(place)
        found = self._listed[place].get(name) or self._listed[place].get(composed(name))
        return None if found is None else os.path.join(place, found)

    def _listing(self, place: str) -> dict[str, str]:
        found: list[tuple[int, str, str]] = []
        try:
            names = os.listdir(self._folder / place)
        except OSError:
            return {}
        for name in names:
            stem, suffix = os.path.splitext(name)
            rank = self._ranks.get(suffix.lower())
            if rank is not None and not name.startswith("."):
                found.append((2 * rank + (suffix != suffix.lower()), stem, name))
        listed = {stem: name for _, stem, name in sorted(found, reverse=True)}
        return {composed(stem): name for stem, name in listed.items()} | listed
