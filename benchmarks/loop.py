"""Our loop against one written by hand in plain torch, on the same work.

    python benchmarks/loop.py --smoke
    python benchmarks/loop.py [--ranks 1 2] [--steps 5] [--rounds 50] [--network deeplabv3plus] [--set dist.reduce=exact ...]

Both train the same ResNet-18 on the same digits (or DeepLabv3+ on a ResNet-18, on masks of shapes) with the same loader
processes, thread count, micro-batches and DDP settings. Ours also does what Phalanx always does: the exchange of weights,
statistics a micro-batch, noise by number, metrics.jsonl, the ledger, the claim to the run directory, W&B offline. The two take
turns in the same processes, a block of steps each. Prints JSON: the median steps per second of both, and the median and
quartiles over rounds of the ratio of ours to the one by hand, which never synchronises BatchNorm and always sums fast.
`--alone`: our loop without the other, for its own `peak_mb`: by how much the memory of rank 0 grew since its imports.
`--smoke`: two ranks, few steps of small images, without W&B.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RECIPE = ROOT / "configs/recipes/digits_resnet18.yaml"
NETWORKS = {
    "resnet18": [],
    "deeplabv3plus": [
        *("task.name=segmentation", "data.name=shapes", "data.options={size: 96, train: 512, val: 8, target: mask}"),
        *("data.image_size=96", "data.augment={flip: 0.5}", "train.global_batch=16", "train.micro_batch=4"),
        *("model.name=deeplabv3plus", "model.backbone=resnet18", "model.output_stride=16"),
    ],
}
TINY = ["data.image_size=8", "train.global_batch=8", "train.micro_batch=2", "track.wandb=off"]  # of --smoke


class Length(NamedTuple):
    """Of a measurement: steps a block, and blocks of each loop; one more warms up."""

    block: int
    rounds: int

    @property
    def steps(self) -> int:
        return (self.rounds + 2) * self.block


def _config(folder: Path, length: Length, network: str, overrides: Sequence[str]) -> Any:
    from phalanx.configs.load import load

    more = ["data.workers=1", f"train.steps={length.steps}", "train.log_every=10", "data.ledger=true", "track.wandb=offline"]
    more += ["train.eval_every=null", "checkpoint.every_steps=null", "checkpoint.every_minutes=null"]
    return load([str(RECIPE)], [*more, "name=benchmark", f"runs={folder}", *NETWORKS[network], *overrides])


class _Finished(Exception):
    """Every block has been measured."""


class _Interleaved:
    """Our loader, which lets the loop by hand have its turn before every block of our steps, and takes the times of both."""

    def __init__(self, loader: Any, by_hand: Iterator[None], world: Any, length: Length):
        self._loader, self._by_hand, self._world = loader, by_hand, world
        self._block, self._rounds = length
        self.rates: dict[str, list[float]] = {"ours": [], "by_hand": []}

    def from_step(self, step: int, last_step: int) -> Iterator[Any]:
        start = time.perf_counter()
        for number, batch in enumerate(self._loader.from_step(step, last_step)):
            if number % self._block == 0:
                if number:
                    self._note("ours", start)
                if number // self._block > self._rounds:
                    raise _Finished
                start = self._now()
                for _ in range(self._block):
                    next(self._by_hand)
                self._note("by_hand", start)
                start = self._now()
            yield batch

    def _now(self) -> float:
        from phalanx.dist.comm.collectives import barrier

        barrier(self._world)
        return time.perf_counter()

    def _note(self, name: str, start: float) -> None:
        self.rates[name].append(self._block / (self._now() - start))


def _ours(config: Any, world: Any, length: Length, alone: bool) -> dict[str, list[float]]:
    """Runs `phalanx.train.loop.train` itself, everything on that a run has on."""
    from phalanx.dist.comm.collectives import run_on_main
    from phalanx.dist.ownership.run_owner import RunOwner
    from phalanx.dist.processes.stop import StopRequest
    from phalanx.dist.storage.run_directory import RunDirectory
    from phalanx.train.loop import train
    from phalanx.train.setup.build import build_distributed, build_local
    from phalanx.train.setup.make_run import make_run

    directory = RunDirectory.of(config)
    with RunOwner(directory, world.ranks) as owner:
        run_on_main(world, owner.claim)
        run_on_main(world, lambda: directory.create(config, threads=1))
        parts = build_distributed(config, build_local(config), world)
        parts.engine.warm_up(parts.task.losses, parts.loader.examples(0, parts.engine.warm_up_share))
        run = make_run(config, directory, parts, StopRequest(), owner)
        by_hand = repeat(None) if alone else _by_hand(config, world, length.steps)
        interleaved = _Interleaved(run.loader, by_hand, world, length)
        run.loader = interleaved  # type: ignore[assignment]
        try:
            train(run)
        except _Finished:
            run.tracker.close(0)
    return {name: rates[1:] for name, rates in interleaved.rates.items() if not alone or name == "ours"}  # the first warms up


def _by_hand(config: Any, world: Any, steps: int) -> Iterator[None]:
    """What a user writes: a model, DDP (or FSDP2, if ours has it), an optimizer, a loader, a loop with accumulation."""
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    from phalanx.data.open import open_split
    from phalanx.data.transforms.pipeline import pipeline
    from phalanx.train.setup import build

    dataset = open_split(config.data, "train")
    transform = pipeline(config.data, dataset, "train")

    class Transformed(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            sample = transform(dataset[index])
            return sample["image"], sample["mask" if "mask" in sample else "target"]

    class Endless(torch.utils.data.Sampler):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[int]:
            generator = torch.Generator().manual_seed(world.ranks.rank)
            while True:
                yield from torch.randperm(len(dataset), generator=generator).tolist()

    model: Any = build.network(config, build.data_info(dataset, config))
    wrapped = model
    sharded = config.dist.strategy == "fsdp"
    if sharded:
        from torch.distributed.fsdp import fully_shard

        blocks = [module for module in model.modules() if type(module).__name__ == "BasicBlock"]
        for block in [*blocks, *(getattr(model, name) for name in ("aspp", "decoder") if hasattr(model, name))]:
            fully_shard(block)
        fully_shard(model)
    elif world.ranks.world > 1:
        wrapped = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    accumulate = config.micro_batches // world.ranks.world
    loader = iter(DataLoader(Transformed(), batch_size=config.train.micro_batch, sampler=Endless(), num_workers=1))
    wrapped.train()
    for step in range(steps):
        for part in range(accumulate):
            image, target = next(loader)
            last = part == accumulate - 1
            if sharded:
                model.set_requires_gradient_sync(last)
            elif world.ranks.world > 1:
                wrapped.require_backward_grad_sync = last
            loss = F.cross_entropy(wrapped(image), target.long(), ignore_index=config.data.ignore_index) / accumulate
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 10 == 0:
            loss.item()
        yield


def _as_rank(config: Any, length: Length, result: Path, alone: bool) -> int:
    """A rank: both loops, in turns. Does not return: the loader processes of both loops end with it."""
    from phalanx.dist.comm.process_group import join
    from phalanx.dist.processes.environment import find

    begun = _resident_mb()
    world = join(find(), config.dist, result.parent, threads=1)
    rates = _ours(config, world, length, alone)
    if world.ranks.is_main:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result.write_text(json.dumps({"rates": rates, "peak_mb": round(peak - begun)}))
    sys.stdout.flush()
    os._exit(0)


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def measure(ranks: int, length: Length, network: str, overrides: Sequence[str], alone: bool) -> dict[str, Any]:
    """Forks the ranks, and sums up what they measured."""
    from benchmarks.support.forking import fork_ranks, wait_for

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, result = _config(folder, length, network, overrides), folder / "result.json"
        ended = wait_for(fork_ranks(lambda rank: _as_rank(config, length, result, alone), ranks, folder))
        if any(code for code, _ in ended):
            raise SystemExit("\n".join(log.read_text() for log in sorted(folder.glob("rank-*.log"))))
        measured = json.loads(result.read_text())
        rates = measured["rates"]
    about = {"network": network, "ranks": ranks, "overrides": list(overrides), "peak_mb": measured["peak_mb"]}
    about |= {f"{name}_steps_per_s": round(statistics.median(values), 3) for name, values in rates.items()}
    if alone:
        return about
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["by_hand"], strict=True)]
    quartiles = [round(q, 4) for q in statistics.quantiles(ratios, n=4)]
    return about | {"ratio": quartiles[1], "ratio_quartiles": quartiles}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=5, help="steps a block")
    parser.add_argument("--rounds", type=int, default=50, help="blocks of each loop")
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet18")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="overrides of our recipe")
    parser.add_argument("--alone", action="store_true", help="our loop only, for its peak memory")
    parser.add_argument("--smoke", action="store_true", help="few steps on two ranks, in seconds")
    given = parser.parse_args(arguments)
    if given.smoke:
        given.ranks, given.steps, given.rounds, given.set = [2], 2, 2, TINY
    from benchmarks.commands import Forks

    Forks()  # imports what ranks would import, while this process has one thread
    import torch

    from benchmarks.results import commit

    length = Length(given.steps, given.rounds)
    results = [measure(ranks, length, given.network, given.set, given.alone) for ranks in given.ranks]
    machine = {"cpus": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}
    about = {"date": time.strftime("%Y-%m-%d"), "commit": commit(), **machine, "steps_a_block": given.steps}
    print(json.dumps(about | {"results": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
