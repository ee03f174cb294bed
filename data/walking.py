"""The files of a folder and of those in it, as people have them: with links, and with what programs leave. No torch here."""

import os
from collections.abc import Iterator
from pathlib import Path

_LEFT_BY_PROGRAMS = {"@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information"}


def is_left_by_programs(folder: str) -> bool:
    """Whether a folder's name says that a program keeps its own things in it: Jupyter, macOS, a network disk, Windows."""
    return folder.startswith(".") or folder in _LEFT_BY_PROGRAMS


def files_below(folder: Path) -> Iterator[str]:
    """Names of all files, relative to the folder, in no order. Links to folders are followed, but each folder is read once.

    A link to a folder that the files lie in is passed over, and so is one to a folder that is read anyway.
    """
    above = os.path.join(os.path.realpath(folder), "")
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        links: list[str] = []
        for name in waiting:
            real = os.path.realpath(folder / name)
            if real in seen or (name and above.startswith(os.path.join(real, ""))):
                continue
            for place, folders, files in os.walk(folder / name):
                inside = os.path.relpath(place, folder)
                inside = "" if inside == "." else inside
                seen.add(os.path.realpath(place))
                folders[:] = [one for one in folders if not is_left_by_programs(one)]
                links += (os.path.join(inside, one) for one in folders if os.path.islink(os.path.join(place, one)))
                yield from (os.path.join(inside, one) for one in files)
        waiting = sorted(links)  # after all that is no link, whose names count where both lead to a folder
