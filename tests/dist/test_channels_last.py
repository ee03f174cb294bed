"""Detectors with images in channels_last train under every strategy as one process does with contiguous ones."""

from collections.abc import Sequence

import pytest

from benchmarks.support.fake_cuda.cases import NETWORKS, narrow
from benchmarks.support.rank_pool import Pool
from phalanx.configs.load import load
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.comm.process_group import World
from phalanx.train.setup.build import build_distributed, build_local
from tests.support.running import DIGITS

_DETECTORS = [name for name, network in NETWORKS.items() if network.task in ("detection", "instance")]
_GROUPS = [_DETECTORS[:2], _DETECTORS[2:4], _DETECTORS[4:]]
_RECIPE = [
    "name=none", "data.name=shapes", "data.options={target: boxes, size: 64, train: 4, val: 1}", "data.image_size=64",
    "data.workers=0", "optim.name=sgd", "optim.lr=0.01", "train.steps=1", "train.global_batch=2", "train.micro_batch=1",
]  # fmt: skip


def losses(world: World, detectors: Sequence[str], strategy: str, channels_last: bool) -> dict[str, dict[str, float]]:
    """Of each detector, those of a step, after which all weights are finite numbers."""
    return {name: _of_one(world, name, strategy, channels_last) for name in detectors}


def _of_one(world: World, name: str, strategy: str, channels_last: bool) -> dict[str, float]:
    network = NETWORKS[name]
    dist = [f"dist.strategy={strategy}", f"dist.channels_last={str(channels_last).lower()}", "dist.device=cpu"]
    if strategy == "hsdp":
        dist.append("dist.shard_ranks=2")
    config = load([DIGITS], [*_RECIPE, f"task.name={network.task}", *narrow(network.overrides), *dist])
    parts = build_distributed(config, build_local(config), world)
    engine, task = parts.engine, parts.task
    engine.warm_up(task.losses, parts.loader.examples(0, engine.warm_up_share))
    (batch,) = parts.loader.from_step(0, 1)
    weights = [task.weights(micro_batch) for micro_batch in batch.micro_batches]
    for micro_batch in engine.micro_batches(0, batch.micro_batches, weights):
        engine.backward(task.losses(engine.model, micro_batch))
    engine.step()
    assert engine.all_finite()
    (step,) = engine.settle()
    return step.losses


def _combinations() -> list[tuple[str, Sequence[str]]]:
    """Every detector where the weights are in channels_last as well; elsewhere, where only the images are, one group each."""
    others = [strategy for strategy in STRATEGIES if strategy not in ("single", "ddp")]
    cut = [(strategy, _GROUPS[number % len(_GROUPS)]) for number, strategy in enumerate(others)]
    return [("single", _GROUPS[-1]), *(("ddp", group) for group in _GROUPS), *cut]


@pytest.fixture(scope="module")
def expected(pool: Pool) -> dict[str, dict[str, float]]:
    return {name: step for group in _GROUPS for name, step in pool.run(1, losses, group, "single", False)[0].items()}


@pytest.mark.parametrize(("strategy", "detectors"), _combinations())
def test_a_detector_trains_in_channels_last(
    pool: Pool, expected: dict[str, dict[str, float]], strategy: str, detectors: Sequence[str]
) -> None:
    found = pool.run(1 if STRATEGIES[strategy].one_rank else 2, losses, detectors, strategy, True)[0]
    for name in detectors:
        assert found[name] == pytest.approx(expected[name], rel=1e-3), name
