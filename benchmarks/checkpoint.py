"""Saving and loading: ours, asynchronous and not, against raw writes, torch.save, and torch's distributed checkpoints (DCP).

    python benchmarks/checkpoint.py --folder /scratch --sizes 50 500 2000 --ranks 1 2 4 > checkpoint.json

Every rank holds the same tensors, as under DDP: weights and momentum of a ResNet's shapes, repeated up to the size. In each
round every way takes its turn, each round beginning with another, so that all see the same noise; figures are medians over
rounds in seconds, ratios medians of ratios within a round. `floor` writes each rank's share raw from memory, and fsyncs.
Everything that is saved is fsynced, file and folder, into new files; what they replace is removed out of the measured time.
`stall` is how long training stands still for an asynchronous save: in the call, and before the update at the end of a step of
`--step` seconds; the copy goes on beside it (a step on a GPU leaves the processor to it; here it sleeps). Loading ends when the
tensors hold the bytes; ours has verified their checksums by then. Files were written just before, so reads come from the page
cache.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHAPES: list[tuple[int, ...]] = [(64, 3, 7, 7), (64, 64, 3, 3), (128, 64, 3, 3), (128,), (256, 128, 3, 3), (256,)]
SHAPES += [(512, 256, 3, 3), (512,), (512, 512, 3, 3), (1000, 512)]
Ways = dict[str, Callable[[], object]]


def make_state(megabytes: int) -> dict[str, Any]:
    """Float32 tensors of so many MB, of the shapes of a network, each with a momentum."""
    import torch

    generator, state, left, block = torch.Generator().manual_seed(0), dict[str, Any](), megabytes * 1_000_000, 0
    while left > 0:
        for number, shape in enumerate(SHAPES):
            tensor = torch.randn(shape, generator=generator)
            name = f"blocks.{block}.{number}.weight"
            state |= {name: tensor, f"{name}@momentum_buffer": tensor.clone()}
            left -= 2 * tensor.numel() * 4
            if left <= 0:
                break
        block += 1
    return state


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class Peak:
    """The largest resident memory of this process since it was begun, above what there was then."""

    def __enter__(self) -> "Peak":
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._read("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = max(0, self._read("VmHWM") - self._before)

    @staticmethod
    def _read(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def ways(world: Any, folder: Path, state: dict[str, Any], a_step: float) -> tuple[Ways, Ways, Any, Callable[[], None]]:
    """What is measured: saves, then loads of what they wrote; our saver, whose save must end in between; and the removal."""
    import torch
    import torch.distributed.checkpoint as dcp

    from phalanx.dist.checkpoint import directory, manifest, plan
    from phalanx.dist.checkpoint.entries import whole
    from phalanx.dist.checkpoint.reader import threads
    from phalanx.dist.checkpoint.restore import newest, restore
    from phalanx.dist.checkpoint.retention import Retention
    from phalanx.dist.checkpoint.save import Progress
    from phalanx.dist.checkpoint.saver import Saver

    rank, ranks = world.ranks.rank, world.ranks.world
    entries = [whole(name, "optimizer" if "@" in name else "model", tensor) for name, tensor in state.items()]
    step, turn = 0, 0

    def next_step() -> Progress:
        nonlocal step
        step += 1
        return Progress(step, step, "ddp", "benchmark", {})

    ours = folder / "ours"
    saver = Saver(world, ours, Retention(keep=1), asynchronous=True)
    mine = plan.own_ranges(entries, rank, ranks, plan.ranks_a_file(plan.facts(entries), ranks))

    def floor() -> None:
        with open(folder / f"raw-{rank}-{turn}", "wb", buffering=0) as file:
            for part in plan.parts(mine):
                file.write(part.memory() if callable(part.memory) else part.memory)
            os.fsync(file.fileno())
        fsync(folder)

    def blocking() -> None:
        (saved,) = saver.start(entries, next_step(), awaited=True)
        assert saved.path is not None, saved.problem

    def torch_save() -> None:
        if rank == 0:
            torch.save(state, folder / f"torch-{turn}.pt")
            fsync(folder / f"torch-{turn}.pt")
            fsync(folder)

    def dcp_save() -> None:
        dcp.save(state, checkpoint_id=folder / f"dcp-{turn}", no_dist=ranks == 1)  # its writer fsyncs files
        if rank == 0:
            fsync(folder / f"dcp-{turn}")
            fsync(folder)

    def load_ours() -> None:
        path, _ = newest(world, ours)
        assert path is not None
        restore(path, manifest.read(path), entries, threads(world.ranks.local_world))

    def torch_load() -> None:
        found = torch.load(folder / f"torch-{turn}.pt", weights_only=True)
        for name, tensor in state.items():
            tensor.copy_(found[name])

    def dcp_load() -> None:
        dcp.load(state, checkpoint_id=folder / f"dcp-{turn}", no_dist=ranks == 1)

    def stall() -> None:
        saver.start(entries, next_step())
        time.sleep(a_step)
        saver.wait_for_copy()

    def remove_old() -> None:
        """What ways of before have left; the next ones write new files."""
        nonlocal turn
        saver.wait()
        if rank == 0:
            for path in folder.glob("*-*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        turn += 1

    if rank == 0:
        directory.step_directory(ours, 0).parent.mkdir(parents=True)
    saves: Ways = {
        "floor": floor,
        "ours": blocking,
        "stall": stall,
        "torch.save": torch_save,
        "dcp.save": dcp_save,
    }
    return saves, {"ours": load_ours, "torch.load": torch_load, "dcp.load": dcp_load}, saver, remove_old


def measured(world: Any, where: str, megabytes: int, rounds: int, a_step: float) -> list[dict[str, Any]]:
    """This rank's seconds of every way in every round, and its peaks of memory in the last."""
    import torch

    from phalanx.dist.collectives import barrier, sum_exactly

    folder = Path(where)
    state = make_state(megabytes)
    saves, loads, saver, remove_old = ways(world, folder, state, a_step)
    found: list[dict[str, Any]] = []
    for number in range(rounds + 1):  # the first warms up: buffers, page cache, imports
        remove_old()
        one: dict[str, Any] = {"save": {}, "load": {}, "peak": {}, "background": 0.0}
        for kind, chosen in (("save", saves), ("load", loads)):
            for name, way in _turned(list(chosen.items()), number):
                saver.wait()  # of removals, too
                if world.ranks.is_main:
                    os.sync()
                barrier(world)
                begun = time.perf_counter()
                with Peak() as peak:
                    way()
                if name != "stall":
                    barrier(world)
                one[kind][name] = time.perf_counter() - begun
                one["peak"][f"{kind} {name}"] = peak.bytes
                if name == "stall":
                    with Peak() as peak:
                        saver.wait()
                    one["background"] = time.perf_counter() - begun
                    one[kind][name] -= a_step
                    one["peak"]["background"] = peak.bytes
        if number:
            found.append(one)
    slowest = torch.zeros(world.ranks.world, rounds, dtype=torch.float64)
    slowest[world.ranks.rank] = torch.tensor([one["save"]["stall"] for one in found])
    sum_exactly(world, slowest)
    for one, stall in zip(found, slowest.max(0).values.tolist(), strict=True):
        one["save"]["stall"] = stall  # of the slowest rank: it holds up the others
    own = sum(t.numel() * 4 for t in state.values()) / world.ranks.world
    for one in found:
        one["share"] = own
    return found


def _turned(ways: list[Any], by: int) -> list[Any]:
    """Every round begins with another: what comes after a long load finds the disk's own caches empty."""
    return ways[by % len(ways) :] + ways[: by % len(ways)]


def summary(per_rank: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, and medians of ratios within a round, of rank 0; the largest peak of any rank over its share."""
    rounds = per_rank[0]

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 4)

    def ratio(kind: str, name: str, other: str) -> float:
        return median([one[kind][name] / one[kind][other] for one in rounds])

    peaks = {name: max(one["peak"][name] / one["share"] for own in per_rank for one in own) for name in rounds[0]["peak"]}
    return {
        "save_s": {name: median([one["save"][name] for one in rounds]) for name in rounds[0]["save"]},
        "load_s": {name: median([one["load"][name] for one in rounds]) for name in rounds[0]["load"]},
        "background_s": median([one["background"] for one in rounds]),
        "ours/floor": ratio("save", "ours", "floor"),
        "ours/torch.save": ratio("save", "ours", "torch.save"),
        "ours/dcp.save": ratio("save", "ours", "dcp.save"),
        "stall/ours": ratio("save", "stall", "ours"),
        "load ours/torch.load": ratio("load", "ours", "torch.load"),
        "load ours/dcp.load": ratio("load", "ours", "dcp.load"),
        "extra memory over a rank's share": {name: round(value, 3) for name, value in peaks.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an existing folder on the disk to measure")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 500, 2000], help="MB")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--step", type=float, default=0.3, help="seconds of a step of training")
    given = parser.parse_args()

    import torch

    from tests.rank_pool import Pool

    pool = Pool(max(given.ranks), timeout_s=1800)
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "versions": versions, "cells": []}
    folder = given.folder / f"phalanx-benchmark-{os.getpid()}"
    try:
        for megabytes in given.sizes:
            for ranks in given.ranks:
                folder.mkdir()
                try:
                    found = pool.run(ranks, measured, str(folder), megabytes, given.rounds, given.step)
                finally:
                    shutil.rmtree(folder)
                cell = {"MB": megabytes, "ranks": ranks} | summary(found)
                result["cells"].append(cell)
                print(json.dumps(cell), file=sys.stderr, flush=True)
    finally:
        pool.close()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
