"""Every strategy trains every kind of model as one process does, or refuses it by name before the first step."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import parity_cases as cases
from benchmarks.parity import Cell, measure
from benchmarks.support.rank_pool import Pool
from benchmarks.support.resuming import resume
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.configs.strategies import STRATEGIES as TABLE
from phalanx.data.loading.loader import EvaluationLoader, Samples
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.randomness import key, seed_everything
from phalanx.train.evaluation.evaluate import evaluate
from tests.support.running import DIGITS

STRATEGIES = [name for name, spec in TABLE.items() if not spec.one_rank]


def config(strategy: str, *overrides: str, global_batch: int = 32) -> RunConfig:
    sizes = [f"train.global_batch={global_batch}", "train.micro_batch=4", "train.steps=3"]
    shard = ["dist.shard_ranks=1"] if strategy == "hsdp" else []
    precision = [] if strategy.startswith("zero") else ["dist.precision=fp64"]
    return load([DIGITS], [*sizes, f"dist.strategy={strategy}", *shard, *precision, *overrides])


# -- the grid: some cells of benchmarks/parity.py, which runs them all


@pytest.mark.parametrize(
    "cell",
    [
        Cell("ddp", "fast", "sgd", "cnn", "2", 8, 3),  # a group that spans ranks, and one that is merged
        Cell("ddp", "fast", "adamw", "cnn", "all", 4, 4),
        Cell("fsdp", "fast", "sgd", "cnn", "2", 8, 3),
        Cell("fsdp", "fast", "adamw", "transformer", "off", 4, 3),
        Cell("hsdp", "fast", "sgd", "cnn+dropout", "off", 8, 4),
        Cell("zero1", "fast", "adamw", "cnn", "off", 8, 3),
        Cell("zero2", "fast", "sgd", "cnn", "2", 8, 3),
        Cell("zero3", "fast", "adamw", "transformer", "off", 4, 3),
        Cell("zero3", "fast", "sgd", "cnn", "all", 4, 2),
    ],
    ids=str,
)
def test_a_strategy_equals_one_process(pool: Pool, cell: Cell) -> None:
    after = measure(pool, cell, steps=(1, 5))[5]
    allowed = 1e-5 if cell.dtype == "fp32" else 1e-10
    assert all(after[kind] <= allowed for kind in ("loss", "gradients", "weights", "buffers")), after


@pytest.mark.quick
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "hsdp"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("micro_batches", [8, 7])
def test_exact_sums_are_bitwise_those_of_one_process(pool: Pool, strategy: str, optimizer: str, micro_batches: int) -> None:
    """In float32, the norm of the gradient cut; in shards too, whose bounds depend on the number of ranks."""
    exact = ["dist.reduce=exact", "train.clip_norm=0.5"]
    single = cases.config(DIGITS, micro_batches, *exact)
    expected = cases.assembled(pool.run(1, cases.trained, single, "cnn+dropout", optimizer, (5,)), 5)
    for ranks in (2, 3, 4):
        shards = [f"dist.shard_ranks={2 if ranks == 4 else 1}"] if strategy == "hsdp" else []
        settings = cases.config(DIGITS, micro_batches, *exact, f"dist.strategy={strategy}", *shards)
        found = cases.assembled(pool.run(ranks, cases.trained, settings, "cnn+dropout", optimizer, (5,)), 5)
        assert found[0] == expected[0] and cases.differences(found, expected)["bitwise"]


# -- kinds of models


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.forgotten = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.mean((2, 3)).repeat(1, 4))


class FrozenBackbone(nn.Module):
    """Its backbone's BatchNorm still gathers statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)
        self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).relu().mean((2, 3)))


class Dictionary(nn.Module):
    """Two outputs in a dictionary; a layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice, self.main, self.auxiliary = nn.Conv2d(2, 8, 3), nn.Linear(8, 8), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.twice(self.twice(self.conv(x).relu().mean((2, 3))).relu())
        return {"out": self.main(found), "aux": self.auxiliary(found)}


class Temperature(nn.Module):
    """One parameter has no dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.temperature = nn.Conv2d(2, 8, 3), nn.Linear(8, 5), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3))) * self.temperature


def losses(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, float]]:
    output = model(batch["image"])
    found = output if isinstance(output, dict) else {"out": output}
    target = batch["target"].clamp(min=0)
    return {name: (F.cross_entropy(logits, target, reduction="sum"), 4.0) for name, logits in found.items()}


def weights_of_losses(batch: Mapping[str, Any]) -> dict[str, float]:
    return {"out": float(len(batch["target"])), "aux": float(len(batch["target"]))}


def sgd(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9)


def built(kind: Callable[[], nn.Module]) -> nn.Module:
    seed_everything(7)
    return kind()


def engine_for(world: World, settings: RunConfig, kind: Callable[[], nn.Module]) -> Engine:
    engine = Engine(built(kind), sgd, lambda step: 0.1, settings, world)
    share = engine.warm_up_share
    engine.warm_up(losses, [cases.micro_batch(0, v) for v in range(share.first, share.last)])
    return engine


def run_steps(engine: Engine, steps: Iterable[int], losses_of: Any = losses) -> None:
    for step in steps:
        batch = [cases.micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        for part in engine.micro_batches(step, batch, [weights_of_losses(b) for b in batch]):
            engine.backward(engine.losses(losses_of, part))
        engine.step()
    engine.settle()


def weights_of(engine: Engine) -> dict[str, Tensor]:
    with engine.evaluation() as model:
        return {n: t.detach().clone() for n, t in model.state_dict().items()}


def trained(world: World, settings: RunConfig, kind: Callable[[], nn.Module]) -> dict[str, Tensor] | str:
    try:
        engine = engine_for(world, settings, kind)
    except UserError as refused:
        return str(refused)
    run_steps(engine, range(3))
    return weights_of(engine)


def by_hand(kind: Callable[[], nn.Module], dtype: torch.dtype) -> dict[str, Tensor]:
    """Three steps of eight micro-batches on one process."""
    model = built(kind).to(dtype).train()
    optimizer = sgd({n: p for n, p in model.named_parameters() if p.requires_grad})
    chains = [{n: b.clone() for n, b in model.named_buffers()} for _ in range(8)]
    for step in range(3):
        optimizer.zero_grad()
        for v in range(8):
            for name, buffer in model.named_buffers():
                buffer.copy_(chains[v][name])
            batch = cases.micro_batch(step, v)
            batch["image"] = batch["image"].to(dtype)
            torch.stack([total / 32 for total, _ in losses(model, batch).values()]).sum().backward()
            chains[v] = {n: b.clone() for n, b in model.named_buffers()}
        optimizer.step()
    for name, buffer in model.named_buffers():
        rows = torch.stack([chain[name] for chain in chains])
        buffer.copy_(rows.mean(0) if rows.is_floating_point() else rows[0])
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], allowed: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = float((found[name].double() - tensor.double()).abs().max())
        assert difference <= allowed * float(tensor.double().abs().max()), f"{name}: {difference}"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", [Unused, FrozenBackbone, Dictionary, Temperature], ids=lambda k: k.__name__)
def test_every_kind_of_model_trains_or_is_refused_by_name(pool: Pool, strategy: str, kind: Callable[[], nn.Module]) -> None:
    settings = config(strategy)
    results = pool.run(3, trained, settings, kind)
    if kind is Unused:
        assert all("no loss depends on the parameter forgotten.weight and 1 more" in said for said in results), results[0]
        return
    if kind is Temperature and strategy.startswith("zero"):
        assert all("the parameter temperature has no dimension" in said for said in results), results[0]
        return
    double = settings.dist.precision == "fp64"
    expected = by_hand(kind, torch.float64 if double else torch.float32)
    for found in results:
        assert isinstance(found, dict), found
        assert_close(found, expected, 1e-11 if double else 1e-5)


def test_a_parameter_without_dimensions_is_summed_exactly_too(pool: Pool) -> None:
    """FSDP2 does not shard it: each rank has it, and the same tree sums its gradient."""
    exact = ["dist.reduce=exact", "dist.precision=fp32", "train.clip_norm=0.1"]
    (single,) = pool.run(1, trained, config("ddp", *exact), Temperature)
    for ranks in (2, 3):
        for found in pool.run(ranks, trained, config("fsdp", *exact), Temperature):
            assert all(torch.equal(found[name], single[name]) for name in single)


# -- losses


class Segments(nn.Module):
    """A class a pixel, from two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.main, self.auxiliary = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.body(x).relu()
        return {"out": self.main(found), "aux": self.auxiliary(found)}


def masks(step: int, number: int) -> Tensor:
    """Targets of which nine in ten pixels are ignored, unevenly: in every third micro-batch all of them."""
    generator = torch.Generator().manual_seed(key(step, number, "mask"))
    target = torch.randint(0, 4, (4, 8, 8), generator=generator)
    kept = 0.15 if number % 3 else 0.0
    target[torch.rand(target.shape, generator=generator) >= kept] = 255
    return target


def segmentation_weights(batch: Mapping[str, Any]) -> dict[str, float]:
    target = batch["target"]
    return {"out": float((target != 255).sum()), "aux": float((target < 2).sum())}


def segmentation_losses(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, float]]:
    output, target = model(batch["image"]), batch["target"]
    few = torch.where(target < 2, target, 255)
    return {
        "out": (F.cross_entropy(output["out"], target, reduction="sum", ignore_index=255), 0.0),
        "aux": (0.4 * F.cross_entropy(output["aux"], few, reduction="sum", ignore_index=255), 0.0),
    }


def segmentation_batch(step: int, number: int) -> dict[str, Any]:
    return {"image": cases.micro_batch(step, number)["image"], "target": masks(step, number)}


def segmented(world: World, settings: RunConfig) -> dict[str, Tensor]:
    engine = Engine(built(Segments), sgd, lambda step: 0.1, settings, world)
    share = engine.warm_up_share
    engine.warm_up(segmentation_losses, [segmentation_batch(0, v) for v in range(share.first, share.last)])
    for step in range(3):
        batch = [segmentation_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        for part in engine.micro_batches(step, batch, [segmentation_weights(b) for b in batch]):
            engine.backward(segmentation_losses(engine.model, part))
        engine.step()
    return weights_of(engine)


def segmented_by_hand() -> dict[str, Tensor]:
    """The whole batch in one forward."""
    model = built(Segments).double()
    optimizer = sgd(dict(model.named_parameters()))
    for step in range(3):
        parts = [segmentation_batch(step, v) for v in range(8)]
        whole = {name: torch.cat([part[name] for part in parts]) for name in ("image", "target")}
        ignored = float((whole["target"] == 255).double().mean())
        assert 0.88 < ignored < 0.94, ignored
        total = segmentation_weights(whole)
        whole["image"] = whole["image"].double()
        optimizer.zero_grad()
        found = segmentation_losses(model, whole)
        torch.stack([found[name][0] / total[name] for name in found]).sum().backward()
        optimizer.step()
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_ignored_pixels_and_an_auxiliary_loss_weigh_as_on_one_process(pool: Pool, strategy: str, ranks: int) -> None:
    expected = segmented_by_hand()
    for found in pool.run(ranks, segmented, config(strategy)):
        assert_close(found, expected, 1e-10)


# -- checkpoints


def saved(world: World, settings: RunConfig, folder: Path) -> None:
    engine = engine_for(world, settings, FrozenBackbone)
    run_steps(engine, range(2))
    assert engine.all_finite()
    save(world, folder, engine.entries(), CheckpointInfo(2, 64, settings.dist.strategy, "digest", engine.scalars()))


def gone_on(world: World, settings: RunConfig, folder: Path) -> dict[str, Tensor]:
    engine = Engine(built(FrozenBackbone), sgd, lambda step: 0.1, settings, world)
    resume(world, engine, folder)
    share = engine.warm_up_share
    engine.warm_up(losses, [cases.micro_batch(2, v) for v in range(share.first, share.last)])
    run_steps(engine, [2])
    return weights_of(engine)


@pytest.mark.parametrize(
    ("before", "after"),
    [("ddp", "fsdp"), ("fsdp", "hsdp"), ("hsdp", "zero3"), ("zero3", "zero2"), ("zero2", "ddp"), ("zero1", "fsdp")],
)
def test_a_run_resumes_under_another_strategy_on_other_ranks(pool: Pool, before: str, after: str, tmp_path: Path) -> None:
    single = ["dist.precision=fp32"]
    pool.run(4, saved, config(before, *single), tmp_path)
    expected = by_hand(FrozenBackbone, torch.float32)
    for found in pool.run(3 if after != "hsdp" else 2, gone_on, config(after, *single), tmp_path):
        assert_close(found, expected, 1e-5)


def in_cpu_memory(world: World, settings: RunConfig) -> dict[str, Tensor]:
    engine = engine_for(world, settings, FrozenBackbone)
    assert engine.all_finite()
    run_steps(engine, range(3))
    return weights_of(engine)


@pytest.mark.parametrize("strategy", ["fsdp", "hsdp"])
def test_shards_in_cpu_memory_train_alike(pool: Pool, strategy: str) -> None:
    """On a CPU they are there anyway; that torch's policy goes through every part of a step is what this shows."""
    expected = by_hand(FrozenBackbone, torch.float64)
    for found in pool.run(2, in_cpu_memory, config(strategy, "dist.offload=true")):
        assert_close(found, expected, 1e-10)


# -- evaluation


class Digits(nn.Module):
    """Its forward depends on the data: a second layer runs only where the first is sure."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 10), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.first(x.flatten(1))
        return logits + self.second(logits) if self.training or logits[0, 0] > 0 else logits


class Measuring:
    """The part of a task that evaluation needs."""

    def measure(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        logits = model(batch["image"])
        loss = F.cross_entropy(logits, batch["target"], reduction="sum")
        return {"samples": torch.tensor(float(len(logits))), "loss": loss, "size": logits.square().sum()}

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return dict(sums)


def evaluated(world: World, settings: RunConfig, batch: int) -> dict[str, float]:
    dataset = open_split(settings.data, "val")
    engine = Engine(built(Digits), sgd, lambda step: 0.1, settings, world)
    loader = EvaluationLoader(
        Samples(dataset, pipeline(settings.data, dataset, "val"), 0), 7, batch, world.ranks.rank, world.ranks.world, 0
    )
    return evaluate(engine, Measuring(), loader)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_evaluation_of_7_samples_on_4_ranks_equals_one_process(pool: Pool, strategy: str) -> None:
    settings = config(strategy, "data.image_size=8")
    for batch in (1, 4):  # two samples on most ranks; none on two of them
        (alone,) = pool.run(
            1, evaluated, config("ddp", "data.image_size=8", f"dist.precision={settings.dist.precision}"), batch
        )
        assert alone["samples"] == 7 and math.isfinite(alone["loss"])
        for found in pool.run(4, evaluated, settings, batch):
            assert found == alone


# -- compilation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "model"),
    [("ddp", "cnn+dropout"), ("ddp", "transformer"), ("fsdp", "cnn+dropout")],  # in full, by equal blocks, by blocks
)
def test_a_compiled_model_trains_as_one_that_is_not_dropout_included(pool: Pool, strategy: str, model: str) -> None:
    settings = [cases.config(DIGITS, 4, f"dist.strategy={strategy}", f"dist.compile={c}") for c in ("false", "true")]
    eager, compiled = (pool.run(2, cases.trained, each, model, "sgd", (3,)) for each in settings)
    expected = cases.assembled(eager, 3)
    after = cases.differences(cases.assembled(compiled, 3), expected)
    assert all(after[kind] <= 1e-5 for kind in ("loss", "gradients", "weights", "buffers")), after
