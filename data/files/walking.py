"""The files of a folder and its subfolders, following links and skipping programs' own folders. No torch here."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.data.images.image_formats import NAMED

_LEFT_BY_PROGRAMS = {
    *("@eaDir", "@Recycle", "#recycle", "__MACOSX", "__pycache__", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
    *("@Recently-Snapshot", "@__thumb", "@tmp", "#snapshot", "~snapshot", "RECYCLER", "FOUND.000"),
    *("Network Trash Folder", "Temporary Items"),
}
_PICTURES_NOT_READ = {
    *(".heic", ".heif", ".jp2", ".j2k", ".jxl", ".psd", ".svg", ".eps", ".pdf", ".tga", ".dds", ".exr", ".hdr", ".pcx", ".ico"),
    *(".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".npy", ".npz", ".dcm", ".nii", ".fits", ".mat"),
}


def is_left_by_programs(folder: str) -> bool:
    """Whether a folder is a program's own, by its name: Jupyter's, macOS', a network disk's, Windows'."""
    return folder.startswith(".") or folder in _LEFT_BY_PROGRAMS


def files_below(folder: Path) -> Iterator[str]:
    """Names of all files, relative to the folder, in no order. Links to folders are followed, but each folder is read once.

    A link to a parent folder is skipped, and so is one to a folder that is read anyway.
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
            for place, folders, files in os.walk(folder / name, onerror=_refuse):
                inside = os.path.relpath(place, folder)
                inside = "" if inside == "." else inside
                seen.add(os.path.realpath(place))
                folders[:] = [one for one in folders if not is_left_by_programs(one) and _real(place, one) not in seen]
                links += (os.path.join(inside, one) for one in folders if os.path.islink(os.path.join(place, one)))
                yield from (os.path.join(inside, one) for one in files)
        waiting = sorted(links)  # after all real folders, whose names are preferred


def _real(place: str, name: str) -> str:
    return os.path.realpath(os.path.join(place, name))


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: this folder cannot be read: {error.strerror}. Allow it, or remove the folder.")


def not_read(folder: Path, names: Iterable[str]) -> list[str]:
    """A message, if files have suffixes of unsupported image formats."""
    suffixes = Counter(os.path.splitext(name)[1].lower() for name in names if not os.path.basename(name).startswith("."))
    found = sorted((suffix, count) for suffix, count in suffixes.items() if suffix in _PICTURES_NOT_READ)
    if not found:
        return []
    counts = ", ".join(f"{count} {suffix}" for suffix, count in found)
    return [f"{folder}: files of unsupported formats were left out ({counts}). Supported are {NAMED}."]
