"""Saving and loading: ours, asynchronous and not, against raw writes, torch.save, and torch's distributed checkpoints (DCP).

    python benchmarks/checkpoint.py --smoke
    python benchmarks/checkpoint.py --folder /scratch --sizes 50 500 2000 --ranks 1 2 4 > checkpoint.json

Every rank holds the same tensors, as under DDP: weights and momentum of a ResNet's shapes, repeated up to the size. In each
round every way takes its turn, in an order drawn anew, and on a disk that has come to rest, so that all see the same noise.
Figures are medians over rounds, in seconds until the last rank has ended; ratios are medians of ratios within a round, that to
the floor with its quartiles. `floor` writes each rank's share raw from memory, and fsyncs.
Everything that is saved is fsynced, file and folder, into new files; what they replace is removed out of the measured time.
`stall` is how long training stands still for an asynchronous save: in the call, and before the update at the end of a step of
`--step` seconds; the copy runs beside it (a step on a GPU leaves the processor to it; here it sleeps). Loading ends when the
tensors hold the bytes; ours has verified their checksums by then. Files were written just before, so reads come from the page
cache. `--smoke`: one megabyte on two ranks, two rounds.
"""

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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


class Disk:
    """The disk of a folder."""

    _CALM_POLLS, _POLL_S = 10, 0.02

    def __init__(self, folder: Path, patience_s: float):
        self._patience_s = patience_s
        number = folder.stat().st_dev
        self._requests = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/inflight")

    def rest(self) -> None:
        """Returns when it has nothing to do: blocks of removed files are discarded long after `sync` has returned."""
        os.sync()
        if not self._requests.exists():  # a file system in memory
            return
        calm, begun = 0, time.monotonic()
        while calm < self._CALM_POLLS and time.monotonic() < begun + self._patience_s:
            calm = 0 if any(map(int, self._requests.read_text().split())) else calm + 1
            time.sleep(self._POLL_S)


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
    from phalanx.dist.checkpoint.entries import full_entry
    from phalanx.dist.checkpoint.reader import threads
    from phalanx.dist.checkpoint.restore import newest_valid_on_all, restore
    from phalanx.dist.checkpoint.retention import Retention
    from phalanx.dist.checkpoint.save import CheckpointInfo
    from phalanx.dist.checkpoint.saver import Saver

    rank, ranks = world.ranks.rank, world.ranks.world
    entries = [full_entry(name, "optimizer" if "@" in name else "model", tensor) for name, tensor in state.items()]
    step, turn = 0, 0

    def next_step() -> CheckpointInfo:
        nonlocal step
        step += 1
        return CheckpointInfo(step, step, "ddp", "benchmark", {})

    ours = folder / "ours"
    saver = Saver(world, ours, Retention(keep=1), asynchronous=True)
    mine = plan.own_ranges(entries, rank, ranks, plan.ranks_per_file(plan.tensor_infos(entries), ranks))

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
        path, _ = newest_valid_on_all(world, ours)
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


def measured(
    world: Any, where: str, megabytes: int, rounds: int, a_step: float, patience_s: float = 60
) -> list[dict[str, Any]]:
    """When this rank began and ended every way in every round, and its peaks of memory."""
    from phalanx.dist.comm.collectives import barrier

    folder = Path(where)
    state = make_state(megabytes)
    saves, loads, saver, remove_old = ways(world, folder, state, a_step)
    share = sum(t.numel() * 4 for t in state.values()) / world.ranks.world
    found: list[dict[str, Any]] = []
    disk, order = Disk(folder, patience_s), random.Random(megabytes)
    for number in range(rounds + 1):  # the first warms up: buffers, page cache, imports
        remove_old()
        one: dict[str, Any] = {"spans": {}, "peak": {}, "share": share}
        for kind, chosen in (("save", saves), ("load", loads)):
            for name, way in order.sample(list(chosen.items()), len(chosen)):
                saver.wait()  # of removals, too
                if world.ranks.is_main:
                    disk.rest()
                barrier(world)
                begun = time.perf_counter()
                with Peak() as peak:
                    way()
                one["spans"][f"{kind} {name}"] = (begun, time.perf_counter())
                one["peak"][f"{kind} {name}"] = peak.bytes
                if name == "stall":
                    with Peak() as peak:
                        saver.wait()
                    one["spans"]["background"] = (begun, time.perf_counter())
                    one["peak"]["background"] = peak.bytes
                barrier(world)
        if number:
            found.append(one)
    return found


def _seconds(ranks: Sequence[Mapping[str, Any]], a_step: float) -> dict[str, float]:
    """Of every way, from when the first rank began until the last had ended; of a stall, that of the slowest rank.

    Linux gives all processes one clock.
    """
    spans = {name: [rank["spans"][name] for rank in ranks] for name in ranks[0]["spans"]}
    found = {name: max(ended for _, ended in of) - min(begun for begun, _ in of) for name, of in spans.items()}
    return found | {"save stall": max(ended - begun for begun, ended in spans["save stall"]) - a_step}


def summary(per_rank: Sequence[Sequence[Mapping[str, Any]]], a_step: float) -> dict[str, Any]:
    """Medians, medians of ratios within a round, and the largest peak of any rank over its share."""
    rounds = [_seconds(ranks, a_step) for ranks in zip(*per_rank, strict=True)]

    def medians(kind: str) -> dict[str, float]:
        names = [name for name in rounds[0] if name.startswith(kind)]
        return {name.removeprefix(kind): round(statistics.median(one[name] for one in rounds), 4) for name in names}

    def ratios(name: str, other: str) -> list[float]:
        return [one[name] / one[other] for one in rounds]

    def ratio(name: str, other: str) -> float:
        return round(statistics.median(ratios(name, other)), 4)

    lower, _, upper = statistics.quantiles(ratios("save ours", "save floor"), n=4)
    everything = [one for own in per_rank for one in own]
    peaks = {name: max(one["peak"][name] / one["share"] for one in everything) for name in everything[0]["peak"]}
    return {
        "save_s": medians("save "),
        "load_s": medians("load "),
        "background_s": medians("background")[""],
        "ours/floor": ratio("save ours", "save floor"),
        "ours/floor quartiles": [round(lower, 4), round(upper, 4)],
        "ours/torch.save": ratio("save ours", "save torch.save"),
        "ours/dcp.save": ratio("save ours", "save dcp.save"),
        "stall/ours": ratio("save stall", "save ours"),
        "load ours/torch.load": ratio("load ours", "load torch.load"),
        "load ours/dcp.load": ratio("load ours", "load dcp.load"),
        "extra memory over a rank's share": {name: round(value, 3) for name, value in peaks.items()},
        "rounds_s": [{name: round(seconds, 4) for name, seconds in one.items()} for one in rounds],
    }


def main(arguments: Sequence[str] | None = None, pool: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--folder", type=Path, help="an existing folder on the disk to measure")
    place.add_argument("--smoke", action="store_true", help="one megabyte on two ranks, two rounds, in seconds")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 500, 2000], help="MB")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--step", type=float, default=0.3, help="seconds of a step of training")
    given = parser.parse_args(arguments)

    import torch

    from benchmarks.results import commit
    from benchmarks.support.rank_pool import pooled

    if given.smoke:
        sizes, counts, rounds, a_step, patience_s = [1], [2], 2, 0.01, 0.0
    else:
        sizes, counts, rounds, a_step, patience_s = given.sizes, given.ranks, given.rounds, given.step, 60.0
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), "cores": os.cpu_count()}
    result |= {"versions": versions, "cells": []}
    with pooled(pool, max(counts), timeout_s=1800) as ranks_of:
        for megabytes, ranks in itertools.product(sizes, counts):
            with tempfile.TemporaryDirectory(prefix="phalanx-benchmark-", dir=given.folder) as folder:
                found = ranks_of.run(ranks, measured, folder, megabytes, rounds, a_step, patience_s)
            cell = {"MB": megabytes, "ranks": ranks} | summary(found, a_step)
            result["cells"].append(cell)
            print(json.dumps(cell), file=sys.stderr, flush=True)
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
