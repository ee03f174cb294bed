"""Checks that a checkpoint can be written, before there is anything to lose.

Each rank writes, fsyncs and removes a small file where a checkpoint's would be, which finds the most frequent problems: a
read-only folder, a full disk, a node with another file system. Free space for a full checkpoint is checked too; a quota is
found only when it is reached.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint import directory, plan
from phalanx.dist.checkpoint.entries import Entry
from phalanx.dist.checkpoint.save import SaveFailed, reason, refuse_too_little_space
from phalanx.dist.comm.collectives import broadcast_object, gather_json
from phalanx.dist.comm.process_group import World

_BYTES = 4096


def rehearse(world: World, checkpoints: Path, entries: Sequence[Entry], step: int, to_come: int = 0) -> None:
    """Leaves no files; those left by a kill are removed by the next save. All ranks call together.

    Args:
        entries: what a checkpoint would hold now.
        to_come: further bytes that it will hold: an optimizer has no state before its first step.

    Raises:
        UserError: on every rank, if any rank could not write.
    """
    aside, problem = "", None
    if world.ranks.is_main:
        try:
            refuse_too_little_space(checkpoints, plan.total_bytes(plan.tensor_infos(entries)) + to_come)
            aside = str(directory.prepare(checkpoints, step))
        except (OSError, SaveFailed) as error:
            problem = reason(error, checkpoints)
    outcome = broadcast_object(world, {"aside": aside, "problem": problem})
    problem = outcome["problem"]
    if problem is None:
        problems = gather_json(world, _try(Path(outcome["aside"]), world.ranks.rank))
        problem = next((found for found in problems if found is not None), None)
        if world.ranks.is_main:
            shutil.rmtree(outcome["aside"], ignore_errors=True)
    if problem is not None:
        raise UserError(
            f"no checkpoint could be written: {problem}. Free space or permit it, or set runs=FOLDER to another folder.",
            shared=True,
        )


def _try(aside: Path, rank: int) -> str | None:
    """Why this rank cannot write to a folder, if so."""
    try:
        if not aside.is_dir():
            return f"rank {rank} does not see {aside}; all ranks need the same file system"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(aside / f"shards/rank-{rank:05d}.probe", flags, 0o600)
        try:
            os.write(file, bytes(_BYTES))
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        return reason(error, aside)
    return None
