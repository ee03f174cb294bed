"""The folder of a run's checkpoints: names, what is there, how one is committed and old ones go. No torch here."""

import os
import re
import secrets
import shutil
from pathlib import Path

from phalanx.dist.checkpoint import manifest as manifests
from phalanx.dist.files import fsync_directory

_STEP = re.compile(r"step-(\d{8,})")
_ASIDE = re.compile(r"\.(saving|replaced|pruned)-.*")


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
    for path in checkpoints.iterdir():
        if _ASIDE.fullmatch(path.name):
            shutil.rmtree(path)
    aside = checkpoints / f".saving-{step:08d}-{secrets.token_hex(4)}"
    (aside / "shards").mkdir(parents=True)
    return aside


def commit(aside: Path, step: int, manifest: manifests.Manifest) -> Path:
    """Writes the manifest, makes everything durable, then gives the folder its name in one atomic rename."""
    final = step_directory(aside.parent, step)
    with open(aside / manifests.NAME, "w", encoding="utf-8") as file:
        file.write(manifests.dumps(manifest))
        file.flush()
        os.fsync(file.fileno())
    fsync_directory(aside / "shards")
    fsync_directory(aside)
    if final.exists():
        # Only a checkpoint that did not verify is written again; its successor is whole and on the disk by now.
        final.rename(aside.parent / f".replaced-{step:08d}-{secrets.token_hex(4)}")
    aside.rename(final)
    fsync_directory(final.parent)
    return final


def remove(checkpoints: Path, step: int) -> None:
    """Removes a checkpoint; the folder loses its name before its files, so it is whole or gone."""
    aside = checkpoints / f".pruned-{step:08d}-{secrets.token_hex(4)}"
    step_directory(checkpoints, step).rename(aside)
    shutil.rmtree(aside)


def set_aside(checkpoints: Path, step: int) -> Path:
    """Takes a broken checkpoint's name away, so that it counts nowhere, and keeps what is left of it."""
    aside = checkpoints / f"broken-{step:08d}"
    if aside.exists():
        aside = checkpoints / f"broken-{step:08d}-{secrets.token_hex(4)}"
    step_directory(checkpoints, step).rename(aside)
    return aside
