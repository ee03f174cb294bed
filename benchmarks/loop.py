"""Our loop against one written by hand in plain torch, on the same work.

    python benchmarks/loop.py [--ranks 1 2] [--steps 5] [--rounds 50] [--set dist.reduce=exact ...]

Both train the same ResNet-18 on the same digits with the same loader processes, thread count, micro-batches and DDP
settings. Ours does in addition what Phalanx always does: the exchange of weights, statistics a micro-batch, noise by
number, metrics.jsonl, the ledger, W&B offline. The two take turns in the same processes, a block of steps each. Prints JSON:
the median steps per second of both, and the median and quartiles over rounds of the ratio of ours to the one by hand.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

RECIPE = Path(__file__).resolve().parent.parent / "configs/recipes/digits_resnet18.yaml"
RESULT = "PHALANX_BENCHMARK_RESULT"


def _config(folder: str, steps: int, overrides: Sequence[str]) -> Any:
    from phalanx.configs.load import load

    more = ["data.workers=1", f"train.steps={steps}", "train.log_every=10", "data.ledger=true", "track.wandb=offline"]
    return load([str(RECIPE)], [*more, "name=benchmark", f"runs={folder}", *overrides])


class _Finished(Exception):
    """Every block has been measured."""


class _Interleaved:
    """Our loader, which lets the loop by hand have its turn before every block of our steps, and takes the times of both."""

    def __init__(self, loader: Any, by_hand: Iterator[None], world: Any, block: int, rounds: int):
        self._loader, self._by_hand, self._world, self._block, self._rounds = loader, by_hand, world, block, rounds
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


def _ours(config: Any, world: Any, steps: int, block: int, rounds: int) -> dict[str, list[float]]:
    """Runs `phalanx.train.loop.train` itself, everything on that a run has on."""
    from phalanx.dist.comm.collectives import run_on_main
    from phalanx.dist.processes.stop import StopRequest
    from phalanx.dist.storage.run_directory import RunDirectory
    from phalanx.train.loop import train
    from phalanx.train.run import Due, Run
    from phalanx.train.setup.build import build_distributed, build_local
    from phalanx.train.state import TrainState
    from phalanx.train.tracking.ledger import Ledger
    from phalanx.train.tracking.tracker import Tracker

    directory = RunDirectory.of(config)
    run_on_main(world, lambda: directory.create(config, threads=1))
    parts = build_distributed(config, build_local(config), world)
    parts.engine.warm_up(parts.task.losses, parts.loader.examples(0, parts.engine.warm_up_share))
    interleaved = _Interleaved(parts.loader, _by_hand(config, world, steps), world, block, rounds)
    run = Run(
        config=config,
        directory=directory,
        state=TrainState(),
        engine=parts.engine,
        task=parts.task,
        loader=interleaved,  # type: ignore[arg-type]
        evaluation=parts.evaluation,
        stream=parts.stream,
        tracker=Tracker(config, directory, world.ranks, 0, steps),
        ledger=Ledger(directory.ledger, world.ranks, config.data.ledger),
        stop=StopRequest(),
        due=Due(None, None, steps),
        last_step=steps,
        stop_at=None,
        saved=0,
    )
    try:
        train(run)
    except _Finished:
        run.tracker.close(0)
    return {name: rates[1:] for name, rates in interleaved.rates.items()}  # the first round warms up


def _by_hand(config: Any, world: Any, steps: int) -> Iterator[None]:
    """What a user writes: a model, DDP (or FSDP2, if ours has it), an optimizer, a loader, a loop with accumulation."""
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    from phalanx.data.open import open_split
    from phalanx.data.transforms.pipeline import pipeline
    from phalanx.models import registry

    dataset = open_split(config.data, "train")
    transform = pipeline(config.data, dataset, "train")

    class Transformed(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            sample = dataset[index]
            return transform(sample)["image"], sample["target"]

    class Endless(torch.utils.data.Sampler):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[int]:
            generator = torch.Generator().manual_seed(world.ranks.rank)
            while True:
                yield from torch.randperm(len(dataset), generator=generator).tolist()

    model: Any = registry.get("resnet18").build(num_classes=10, in_channels=1)
    wrapped = model
    sharded = config.dist.strategy == "fsdp"
    if sharded:
        from torch.distributed.fsdp import fully_shard

        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            for residual_block in stage:
                fully_shard(residual_block)
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
            loss = F.cross_entropy(wrapped(image), target) / accumulate
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        if step % 10 == 0:
            loss.item()
        yield


def _as_rank(rounds: int, block: int, overrides: Sequence[str]) -> None:
    """A rank: both loops, in turns."""
    from phalanx.dist.comm.process_group import join
    from phalanx.dist.processes.environment import find

    folder = os.environ["PHALANX_BENCHMARK_FOLDER"]
    steps = (rounds + 2) * block
    config = _config(folder, steps, overrides)
    world = join(find(), config.dist, Path(folder), threads=1)
    rates = _ours(config, world, steps, block, rounds)
    if world.ranks.is_main:
        Path(os.environ[RESULT]).write_text(json.dumps(rates))
    sys.stdout.flush()
    os._exit(0)  # the loader processes of both loops end with us


def _measure(ranks: int, rounds: int, block: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Starts the ranks and sums up what they measured."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        environment = os.environ | {RESULT: str(result), "PHALANX_BENCHMARK_FOLDER": folder, "ACCELERATE_USE_CPU": "true"}
        launcher = [sys.executable]
        if ranks > 1:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        command = [*launcher, __file__, "--as-rank", "--rounds", str(rounds), "--steps", str(block)]
        command += ["--set", *overrides] if overrides else []
        subprocess.run(command, env=environment, check=True, timeout=3600, stdout=subprocess.DEVNULL)
        rates = json.loads(result.read_text())
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["by_hand"], strict=True)]
    medians = {f"{name}_steps_per_s": round(statistics.median(values), 3) for name, values in rates.items()}
    quartiles = [round(q, 4) for q in statistics.quantiles(ratios, n=4)]
    return {"ranks": ranks, "overrides": list(overrides), **medians, "ratio": quartiles[1], "ratio_quartiles": quartiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=5, help="steps a block")
    parser.add_argument("--rounds", type=int, default=50, help="blocks of each loop")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="overrides of our recipe")
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_rank:
        _as_rank(given.rounds, given.steps, given.set)
        return
    import torch

    results = [_measure(ranks, given.rounds, given.steps, given.set) for ranks in given.ranks]
    machine = {"cpus": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}
    print(
        json.dumps({"date": time.strftime("%Y-%m-%d"), **machine, "steps_a_block": given.steps, "results": results}, indent=1)
    )


if __name__ == "__main__":
    main()
