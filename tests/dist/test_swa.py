"""Stochastic weight averaging: the means of plain torch under every strategy, through a resize and another strategy."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import parity_cases as cases
from benchmarks.support.rank_pool import Pool
from benchmarks.support.resuming import resume
from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.checkpoint.layout import EMA, MICRO_BATCHES
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.comm.process_group import World
from phalanx.dist.ema import shares
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.randomness import key, seed_everything
from tests.dist.test_ema import run_steps, warm_up
from tests.support.running import RESNET18

START, EVERY, STEPS, BATCHES = 2, 2, 7, 3
AVERAGED = (2, 4, 6)  # the steps after which weights are averaged


def test_all_weights_count_alike() -> None:
    share = shares.equal(START, EVERY)
    assert [share(n) for n in range(1, 8)] == [1, 1, 0, 1 / 2, 0, 1 / 3, 0]
    average, weights = 0.0, [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0]
    for number, weight in enumerate(weights, 1):
        average += share(number) * (weight - average)
    assert average == pytest.approx(sum(weights[n - 1] for n in AVERAGED) / 3)


def config(strategy: str, *overrides: str) -> RunConfig:
    name = strategy.removeprefix("exact").strip() or "ddp"
    how = [f"dist.strategy={name}", "dist.reduce=exact" if strategy.startswith("exact") else "dist.reduce=fast"]
    shards = ["dist.shard_ranks=2"] if name == "hsdp" else []
    precision = "fp32" if name.startswith("zero") else "fp64"
    return cases.config(RESNET18, 8, *how, *shards, f"dist.precision={precision}", "train.swa_start=0.3", *overrides)


def engine_on(world: World, settings: RunConfig, model: str) -> Engine:
    share = shares.equal(START, EVERY)
    optimizer = cases.OPTIMIZERS["sgd"]
    return Engine(cases.build(model), lambda named: optimizer(named.values()), lambda _: 0.05, settings, world, swa=share)


def evaluated(engine: Engine) -> dict[str, Tensor]:
    steps = ([cases.micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)] for step in range(BATCHES))
    engine.recompute_statistics(cases.losses, steps)
    with engine.evaluation() as model:
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def trained(world: World, settings: RunConfig, model: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What an evaluation sees; and again after one more step and one less in between, by which nothing else may change."""
    engine = engine_on(world, settings, model)
    warm_up(engine)
    run_steps(engine, range(STEPS - 1))
    evaluated(engine)
    run_steps(engine, range(STEPS - 1, STEPS))
    return evaluated(engine), never_evaluated(world, settings, model)


def never_evaluated(world: World, settings: RunConfig, model: str) -> dict[str, Tensor]:
    engine = engine_on(world, settings, model)
    warm_up(engine)
    run_steps(engine, range(STEPS))
    return evaluated(engine)


def by_hand(model_name: str, sync_bn: str, group: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The mean of the weights of plain torch, and the statistics that it has over the data."""
    after = cases.by_hand(model_name, 8, sync_bn, "sgd", dtype, tuple(range(1, STEPS + 1)))
    model = cases.build(model_name).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.as_tensor(sum(after[n][1][name] for n in AVERAGED) / 3).view_as(parameter))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    chains = []
    for first in range(0, 8, group):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
        for step in range(BATCHES):
            seed_everything(key(cases.SEED, "averaged", step, first))
            images = torch.cat([cases.micro_batch(step, v)["image"] for v in range(first, first + group)])
            with torch.no_grad():
                model(images.to(dtype))
        chains.append({name: buffer.clone() for name, buffer in model.named_buffers() if buffer.is_floating_point()})
    means = {name: torch.stack([chain[name] for chain in chains]).mean(0) for name in chains[0]}
    return {name: parameter.detach() for name, parameter in model.named_parameters()} | means


STRATEGY_NAMES = ["exact", "exact fsdp", *(name for name, spec in STRATEGIES.items() if not spec.one_rank)]


@pytest.mark.parametrize("strategy", ["single", *STRATEGY_NAMES])
def test_weights_and_statistics_are_those_of_plain_torch_under_every_strategy(pool: Pool, strategy: str) -> None:
    settings = config(strategy)
    double = settings.dist.precision == "fp64"
    expected = by_hand("cnn", "off", 1, torch.float64 if double else torch.float32)
    ranks = {"single": 1, "hsdp": 4}.get(strategy, 3)
    for found, unseen in pool.run(ranks, trained, settings, "cnn"):
        for name, value in expected.items():
            limit = 1e-10 if double else 2e-5
            assert abs(found[name] - value).max() <= limit * abs(value).max(), name
        assert all(torch.equal(found[name], unseen[name]) for name in found)


@pytest.mark.parametrize(("sync_bn", "ranks"), [("all", 3), ("2", 3)])
def test_statistics_are_synchronised_as_in_training(pool: Pool, sync_bn: str, ranks: int) -> None:
    expected = by_hand("cnn", sync_bn, 8 if sync_bn == "all" else 2, torch.float64)
    for found, unseen in pool.run(ranks, trained, config("ddp", f"dist.sync_bn={sync_bn}"), "cnn"):
        for name, value in expected.items():
            assert abs(found[name] - value).max() <= 1e-10 * abs(value).max(), name
        assert all(torch.equal(found[name], unseen[name]) for name in found)


@pytest.mark.parametrize("sync_bn", ["all", "2"])
def test_with_exact_sums_synchronised_statistics_are_the_same_bits_on_any_ranks(pool: Pool, sync_bn: str) -> None:
    settings = config("exact", f"dist.sync_bn={sync_bn}")
    expected = by_hand("cnn", sync_bn, 8 if sync_bn == "all" else 2, torch.float64)
    ((alone, _),) = pool.run(1, trained, settings, "cnn")
    for name, value in expected.items():
        assert abs(alone[name] - value).max() <= 1e-10 * abs(value).max(), name
    ((noisy, _),) = pool.run(1, trained, settings, "cnn+dropout")
    for ranks in (2, 3):
        for model, one in (("cnn", alone), ("cnn+dropout", noisy)):
            for found, unseen in pool.run(ranks, trained, settings, model):
                assert all(torch.equal(found[name], one[name]) and torch.equal(unseen[name], one[name]) for name in one)


def saved(world: World, settings: RunConfig, folder: Path) -> dict[str, Tensor]:
    """Five steps, a checkpoint, the other two."""
    engine = engine_on(world, settings, "cnn+dropout")
    warm_up(engine)
    run_steps(engine, range(5))
    evaluated(engine)
    save(world, folder, engine.entries(), CheckpointInfo(5, 160, settings.dist.strategy, "digest", engine.scalars()))
    run_steps(engine, range(5, STEPS))
    return evaluated(engine)


def resumed(world: World, settings: RunConfig, folder: Path) -> dict[str, Tensor]:
    engine = engine_on(world, settings, "cnn+dropout")
    stored = resume(world, engine, folder)
    assert any(name.endswith(MICRO_BATCHES + EMA) for name in stored.tensors)
    warm_up(engine)
    run_steps(engine, range(5, STEPS))
    return evaluated(engine)


@pytest.mark.parametrize(("after", "then_on"), [("ddp", 4), ("fsdp", 3), ("exact", 3), ("hsdp", 4)])
def test_after_a_resize_and_under_another_strategy_it_is_the_unbroken_run(
    pool: Pool, tmp_path: Path, after: str, then_on: int
) -> None:
    unbroken = pool.run(4, saved, config("ddp"), tmp_path)
    for found in pool.run(then_on, resumed, config(after), tmp_path):
        for name, value in unbroken[0].items():
            if after == "ddp":
                assert torch.equal(found[name], value), name
            elif value.is_floating_point():
                assert abs(found[name] - value).max() <= 1e-10 * abs(value).max(), name


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.ema=0.99"], "train.ema and train.swa_start are two averages"),
        (["train.swa_start=1"], "train.swa_start"),
    ],
)
def test_what_it_cannot_be_used_with_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        config("ddp", *overrides)
