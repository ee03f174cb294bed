"""Loading a checkpoint: the newest that verifies, under any sharding, by the ranges that this rank needs."""

from collections.abc import Sequence
from pathlib import Path

import torch

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint import directory
from phalanx.dist.checkpoint.entries import DTYPES, Entry, memory
from phalanx.dist.checkpoint.manifest import Manifest
from phalanx.dist.checkpoint.reader import Readers, in_threads, problem, threads
from phalanx.dist.comm.collectives import broadcast_object, gather_json
from phalanx.dist.comm.process_group import World


def newest_valid_on_all(world: World, checkpoints: Path) -> tuple[Path | None, list[tuple[int, str]]]:
    """The newest valid checkpoint, on which all ranks agree, and (step, problem) of newer ones that are not valid.

    The ranks share the reading of the checksums.
    """
    skipped: list[tuple[int, str]] = []
    candidates = broadcast_object(world, directory.steps(checkpoints))
    for step in reversed(candidates):
        path = directory.step_directory(checkpoints, step)
        mine = problem(path, world.ranks.rank, world.ranks.world, threads(world.ranks.local_world))
        found = [p for p in gather_json(world, mine) if p]
        if not found:
            return path, skipped
        skipped.append((step, found[0]))
    return None, skipped


def restore(checkpoint: Path, stored: Manifest, entries: Sequence[Entry], workers: int = 1) -> None:
    """Fills the entries' tensors from a verified checkpoint.

    Args:
        entries: all of the run's, or all of some kinds; other kinds in the checkpoint are ignored.
        workers: threads that read.

    Raises:
        UserError: if the checkpoint and the run do not hold the same tensors, naming the first that differs.
    """
    _compare(checkpoint, stored, entries)
    with Readers(checkpoint, stored) as readers:

        def fill(entry: Entry) -> None:
            with torch.no_grad():  # grad mode is per thread
                in_place = entry.tensor.device.type == "cpu" and entry.tensor.is_contiguous()
                host = entry.tensor if in_place else torch.empty(entry.tensor.shape, dtype=entry.tensor.dtype)
                readers.fill(entry.name, entry.held, memory(host))
                if not in_place:
                    entry.tensor.copy_(host)

        for _ in in_threads(workers, fill, entries):
            pass


def _compare(checkpoint: Path, stored: Manifest, entries: Sequence[Entry]) -> None:
    wanted, kinds = {e.name for e in entries}, {e.kind for e in entries}
    there_are = {name for name, tensor in stored.tensors.items() if tensor.kind in kinds}
    for name in [*sorted(wanted - there_are), *sorted(there_are - wanted)]:
        where = "the checkpoint lacks" if name in wanted else "only the checkpoint has"
        raise UserError(f"{checkpoint}: {where} the tensor {name}. Resume with the code and the model that wrote it.")
    for entry in entries:
        there = stored.tensors[entry.name]
        if there.shape != entry.shape or there.dtype != DTYPES[entry.tensor.dtype]:
            here = f"{DTYPES[entry.tensor.dtype]} {list(entry.shape)}"
            raise UserError(
                f"{checkpoint}: the tensor {entry.name} is {there.dtype} {list(there.shape)} there and {here} here. "
                "Resume with the code and the model that wrote it."
            )
