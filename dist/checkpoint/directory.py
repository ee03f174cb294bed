"""The folder of a run's checkpoints: names, listing, commit and removal. No torch here."""

import os
import re
import secrets
import shutil
from pathlib import Path

from phalanx.dist.checkpoint import manifest as manifests
from phalanx.dist.storage.durable_files import fsync_directory

_STEP = re.compile(r"step-(\d{8,})")
_ASIDE = re.compile(r"\.(saving|replaced|pruned)-\d{8,}-[0-9a-f]{8}")  # files of any other name are left alone


def step_directory(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:08d}"


def steps(checkpoints: Path) -> list[int]:
    """The steps that have a folder, valid or not, oldest first."""
    if not checkpoints.is_dir():
        return []
    found = (_STEP.fullmatch(p.name) for p in checkpoints.iterdir() if p.is_dir())
    return sorted(int(m[1]) for m in found if m)


def prepare(checkpoints: Path, step: int) -> Path:
    """Makes a temporary folder to write a checkpoint into; those left by kills are removed."""
    clear(checkpoints)
    aside = checkpoints / f".saving-{step:08d}-{secrets.token_hex(4)}"
    aside.mkdir()
    (aside / "shards").mkdir()
    return aside


def clear(checkpoints: Path) -> list[str]:
    """Removes temporary folders; returns the reasons for those that cannot be removed."""
    return [
        f"{path}: {problem}"
        for path in sorted(checkpoints.iterdir())
        if _ASIDE.fullmatch(path.name) and (problem := _delete(path)) is not None
    ]


def _delete(path: Path) -> str | None:
    """Removes a folder with its content, or a file; of a link, only the link. Returns why it could not."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return None
        shutil.rmtree(path, ignore_errors=True)  # as much as possible: a reader on NFS may hold a file
        shutil.rmtree(path)
    except FileNotFoundError:
        return None  # already removed by another process
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
        # Only a checkpoint that did not verify is written again; its successor is complete and on the disk by now.
        final.rename(aside.parent / f".replaced-{step:08d}-{secrets.token_hex(4)}")
    aside.rename(final)
    fsync_directory(final.parent)
    return final


def remove(checkpoints: Path, step: int) -> str | None:
    """Removes a checkpoint; its folder loses its name before its files, so it is intact or gone. Returns why not, if so."""
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
    """Renames a broken checkpoint, so that it no longer counts, and keeps its files."""
    aside = checkpoints / f"broken-{step:08d}"
    if aside.exists():
        aside = checkpoints / f"broken-{step:08d}-{secrets.token_hex(4)}"
    step_directory(checkpoints, step).rename(aside)
    return aside
