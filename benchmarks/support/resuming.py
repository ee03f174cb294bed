"""An engine resumes from the newest checkpoint, as a run does."""

from pathlib import Path

from phalanx.dist.checkpoint import manifest
from phalanx.dist.checkpoint.manifest import Manifest
from phalanx.dist.checkpoint.restore import newest_valid_on_all, restore
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine


def resume(world: World, engine: Engine, folder: Path) -> Manifest:
    path, skipped = newest_valid_on_all(world, folder)
    assert path is not None and not skipped
    stored = manifest.read(path)
    engine.allocate_state(stored)
    restore(path, stored, engine.entries())
    engine.after_load()
    return stored
