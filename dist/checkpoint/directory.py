"""The folder of a run's checkpoints: names, what is there, how one is committed and old ones go. No torch here."""

import os
import re
import secrets
import shutil
from pathlib import Path

from phalanx.dist.checkpoint import manifest as manifests
from phalanx.dist.storage.durable_files import fsync_directory

_STEP = re.compile(r"step-(\d{8,})")
_ASIDE = re.compile(r"\.(saving|replaced|pruned)-\d{8,}-[0-9a-f]{8}")  # others' files are left alone, whatever their names


def step_directory(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def steps(checkpoints: Path) -> list[int]:
    """The steps that have a folder, whole or not, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = (_STEP.fullmatch(p.name) for p in checkpoints.iterdir() if p.is_dir())
    return sorted(int(m[1]) for m in found if m)


def prepare(checkpoints: Path, step: int) -> Path:
    """A folder under a temporary name to write a checkpoint into; those that a kill left behind are removed."""
    clear(checkpoints)
    aside = checkpoints / f".saving-{step:08d}-{secrets.token_hex(4)}"
    aside.mkdir()
    (aside / "shards").mkdir()
    return aside


def clear(checkpoints: Path) -> list[str]:
    """Removes what lies under temporary names; says of what cannot be removed why not."""
    return [
        f"{path}: {problem}"
        for path in sorted(checkpoints.iterdir())
        if _ASIDE.fullmatch(path.name) and (problem := _delete(path)) is not None
    ]


def _delete(path: Path) -> str | None:
    """Removes a folder with all that is in it, or a file; of a link, the link alone. Says why it could not."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return None
        shutil.rmtree(path, ignore_errors=True)  # all that can be: one file may be held by a reader on NFS
        shutil.rmtree(path)
    except FileNotFoundError:
        return None  # somebody was faster
    except OSError as error:
        return error.strerror or str(error)
    return None


def commit(aside: Path, step: int, manifest: manifests.Manifest) -> Path:
    """Writes the manifest, makes everything durable, then gives the folder its name in one atomic rename."""
    final = step_directory(aside.parent, step)
    with open(aside / manifests.NAME, "w", encoding="utf-8") as file:
        file.write(manifests.dumps(manifest))
        file.flush()
        os.fsync(file.fileno())
    fsync_directory(aside / "shards")
    fsync_directory(aside)
    if os.path.lexists(final):
        # Only a checkpoint that did not verify is written again; its successor is whole and on the disk by now.
        final.rename(aside.parent / f".replaced-{step:08d}-{secrets.token_hex(4)}")
    aside.rename(final)
    fsync_directory(final.parent)
    return final


def remove(checkpoints: Path, step: int) -> str | None:
    """Removes a checkpoint; its folder loses its name before its files, so it is intact or gone. Says why it is left, if so."""
    path = step_directory(checkpoints, step)
    if path.is_symlink():
        return f"{path}: a link, which is not followed"
    aside = checkpoints / f".pruned-{step:08d}-{secrets.token_hex(4)}"
    try:
        path.rename(aside)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    problem = _delete(aside)
    return None if problem is None else f"{aside}: {problem}"


def set_aside(checkpoints: Path, step: int) -> Path:
    """Takes a broken checkpoint's name away, so that it counts nowhere, and keeps what is left of it."""
    aside = checkpoints / f"broken-{step:08d}"
    if aside.exists():
        aside = checkpoints / f"broken-{step:08d}-{secrets.token_hex(4)}"
    step_directory(checkpoints, step).rename(aside)
    return aside
