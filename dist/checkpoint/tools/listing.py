"""Lists checkpoints by their manifests and the sizes of their files. No torch here."""

from dataclasses import dataclass
from pathlib import Path

from phalanx.dist.checkpoint import directory, manifest, retention
from phalanx.dist.checkpoint.manifest import BrokenCheckpoint, Manifest


@dataclass(frozen=True)
class ListedCheckpoint:
    """A checkpoint's folder.

    Attributes:
        manifest: None if it is broken.
        problem: as the end of a sentence; None if there is none.
        best: whether it has the best metric of all.
    """

    step: int
    manifest: Manifest | None
    problem: str | None
    best: bool = False


def listed(checkpoints: Path, metric: str | None = None, mode: str = "auto") -> list[ListedCheckpoint]:
    """Every checkpoint that has a folder, oldest first; only `verify` compares the contents with their checksums.

    Args:
        metric: the metric that marks the best; None for no mark.
    """
    best = retention.best(checkpoints, metric, mode) if metric else None
    found = []
    for step in directory.steps(checkpoints):
        path = directory.step_directory(checkpoints, step)
        try:
            found.append(ListedCheckpoint(step, manifest.read(path), None, step == best))
        except BrokenCheckpoint as broken:
            if path.exists():  # else a training run has just pruned it
                found.append(ListedCheckpoint(step, None, str(broken)))
        except OSError as error:
            found.append(ListedCheckpoint(step, None, f"{error.filename}: {error.strerror}"))
    return found
