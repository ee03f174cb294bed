"""What the ranks of `grid.py` do: train a network for three steps, save, continue; then the same from what was saved."""

import gc
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from safetensors.torch import load_file, save_file

from benchmarks.support.resuming import resume
from phalanx.configs.own_code import is_own
from phalanx.configs.schema import digest
from phalanx.data.dataset import Dataset
from phalanx.data.dataset_info import DatasetView
from phalanx.data.loading.loader import Loader, Samples
from phalanx.data.open import open_split
from phalanx.data.transforms.mosaic_loading import mosaics
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.sampler import Share, Stream, share
from phalanx.train.optim import optimizers, schedules
from phalanx.train.setup import build
from phalanx.train.setup.build import steps_of_epoch
from phalanx.train.setup.probe import probe
from phalanx.train.tasks import phases_of

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig

SAVED_AT, ENDS_AT = 3, 4


class SomeEmpty(DatasetView):
    """Objects, but none in the first image of the first step, nor in any of the second half of the second step."""

    def __init__(self, dataset: Dataset, stream: Stream):
        super().__init__(dataset)
        batch = stream.global_batch
        draws = stream.draws(0, 1) + stream.draws(batch + batch // 2, 2 * batch)
        self._empty = {draw.sample for draw in draws}

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        if index not in self._empty:
            return sample
        return {name: value if name == "image" else value[:0] for name, value in sample.items()}


class _Training:
    """An engine, its task and its data, as a run has them."""

    def __init__(self, world: World, config: "RunConfig"):
        training = open_split(config.data, "train", config.seed)
        facts = build.data_info(training, config)
        self.task = build.tasks.build(config, facts)
        model = build.network(config, facts)
        stream = Stream(len(training), config.seed, config.train.global_batch, config.train.micro_batch)
        if facts.kind == "detection":
            training = SomeEmpty(training, stream)
        augmented = pipeline(config.data, training, "train")
        samples = Samples(training, augmented, config.seed, mosaics(config, training, augmented))
        mine = share(config.micro_batches, world.ranks.rank, world.ranks.world)
        self.loader = Loader(samples, stream, mine, workers=0, pin=False)
        if any(is_own(name) for name in (config.model.name, config.model.backbone or "")):
            (example,) = self.loader.examples(0, Share(0, 1, config.micro_batches))
            probe(model, phases_of(self.task), example)
        self.engine = Engine(
            model,
            optimizers.optimizer_factory(config.optim, model),
            schedules.learning_rate(config.optim, config.schedule, ENDS_AT, steps_of_epoch(config, stream.samples)),
            config,
            world,
        )

    def warm_up(self, step: int) -> None:
        self.engine.warm_up(self.task.losses, self.loader.examples(step, self.engine.warm_up_share))

    def train(self, steps: range) -> None:
        for batch in self.loader.from_step(steps.start, steps.stop):
            weights = [self.task.weights(micro_batch) for micro_batch in batch.micro_batches]
            for own in self.engine.micro_batches(batch.step, batch.micro_batches, weights):
                self.engine.backward(self.engine.losses(self.task.losses, own))
            self.engine.step()

    def report(self) -> dict[str, Any]:
        """The losses, and a sum over the bits of all weights and statistics, as evaluation uses them."""
        figures = self.engine.settle()
        losses = figures[-1].losses if figures else {}
        with self.engine.evaluation() as model:
            bits = _bits(model.state_dict().items())
            finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
        return {"losses": losses, "bits": bits, "finite": finite}


def _bits(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    found = xxhash.xxh3_64()
    for name, tensor in tensors:
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def cell(world: World, config: "RunConfig", folder: Path) -> dict[str, Any]:
    """Trains, saves and continues; then the same from what was saved.

    Returns:
        `saved`, `unbroken` and `resumed`: reports after the step that is saved, and after the last, without a break and with.
    """
    run = _Training(world, config)
    run.warm_up(0)
    run.train(range(SAVED_AT))
    found = {"saved": run.report()}
    progress = CheckpointInfo(
        SAVED_AT, SAVED_AT * config.train.global_batch, config.dist.strategy, digest(config), run.engine.scalars()
    )
    save(world, folder, run.engine.entries(), progress)
    run.train(range(SAVED_AT, ENDS_AT))
    found["unbroken"] = run.report()
    del run
    gc.collect()  # large networks: two of them would not fit
    again = _Training(world, config)
    stored = resume(world, again.engine, folder)
    again.warm_up(stored.step)
    again.train(range(stored.step, ENDS_AT))
    found["resumed"] = again.report()
    del again
    gc.collect()
    return found


def trained(world: World, config: "RunConfig") -> dict[str, Any]:
    """Trains without a break; the report after the last step."""
    run = _Training(world, config)
    run.warm_up(0)
    run.train(range(SAVED_AT))
    return run.report()


def weights(world: World, config: "RunConfig", file: Path) -> None:
    """Trains without a break, and writes weights and statistics, as evaluation uses them."""
    run = _Training(world, config)
    run.warm_up(0)
    run.train(range(SAVED_AT))
    with run.engine.evaluation() as model:
        if world.ranks.is_main:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, file)
    del run
    gc.collect()


def difference(one: Path, other: Path) -> float:
    """The largest max|a - b| / max|b| over all tensors of two files.

    Tensors below 1e-6 of the largest, such as a bias before BatchNorm, whose gradient is only rounding, are held against that.
    """
    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    sizes = {name: float(tensor.double().abs().max()) for name, tensor in theirs.items()}
    least = 1e-6 * max(sizes.values())
    differences = [
        float((ours[name].double() - tensor.double()).abs().max()) / max(sizes[name], least) for name, tensor in theirs.items()
    ]
    return max(differences)
