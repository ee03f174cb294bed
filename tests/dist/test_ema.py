"""Averaged weights are those of plain torch under every strategy, and evaluation borrows the weights' place for them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from benchmarks import parity_cases as cases
from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig, digest
from phalanx.dist.checkpoint.layout import EMA
from phalanx.dist.checkpoint.save import Progress, save
from phalanx.dist.engine import Engine
from phalanx.dist.process_group import World
from tests.dist import test_precision as overflowing
from tests.dist.resuming import resume
from tests.rank_pool import Pool
from tests.running import DIGITS

DECAY = 0.9
STEPS = 4
STRATEGIES = ["ddp", "exact", "fsdp", "exact fsdp", "hsdp", "zero1", "zero2", "zero3"]
Bits = list[tuple[str, int, bytes]]  # name, first element and content of what a rank holds


def config(strategy: str, *overrides: str) -> RunConfig:
    """Of eight micro-batches, in float64 where the strategy has it."""
    name = strategy.removeprefix("exact").strip() or "ddp"
    how = [f"dist.strategy={name}", "dist.reduce=exact" if strategy.startswith("exact") else "dist.reduce=fast"]
    shards = ["dist.shard_ranks=2"] if name == "hsdp" else []
    precision = "fp32" if name.startswith("zero") else "fp64"
    return cases.config(DIGITS, 8, *how, *shards, f"dist.precision={precision}", f"train.ema={DECAY}", *overrides)


def ranks_for(strategy: str) -> int:
    return {"single": 1, "hsdp": 4}.get(strategy, 3)


def frozen_in_part() -> nn.Module:
    """A network whose first layer is not trained."""
    model = cases.build("cnn")
    next(iter(model.parameters())).requires_grad_(False)
    return model


def engine_on(world: World, settings: RunConfig) -> Engine:
    return Engine(frozen_in_part(), lambda named: cases.OPTIMIZERS["adamw"](named.values()), lambda _: 0.05, settings, world)


def warm_up(engine: Engine) -> None:
    share = engine.warm_up_share
    engine.warm_up(cases.losses, [cases.micro_batch(0, v) for v in range(share.first, share.last)])


def run_steps(engine: Engine, steps: Iterable[int]) -> None:
    for step in steps:
        batch = [cases.micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        for part in engine.micro_batches(step, batch, [cases.weights(b) for b in batch]):
            engine.backward(cases.losses(engine.model, part))
        engine.step()
    engine.settle()


def held(engine: Engine, kind: str | None = None) -> Bits:
    entries = [e for e in engine.entries() if kind in (None, e.kind)]
    return [(e.name, e.start, e.tensor.detach().numpy().tobytes()) for e in entries]


def in_evaluation(engine: Engine) -> dict[str, Tensor]:
    with engine.evaluation() as model:
        return {n: t.detach().clone() for n, t in model.state_dict().items()}


# -- the average


def averages_by_hand(dtype: torch.dtype) -> dict[str, numpy.ndarray]:
    """From the weights of training in plain torch, `[elements]` each."""
    start = {n: p.detach().numpy().reshape(-1) for n, p in cases.build("cnn").to(dtype).named_parameters()}
    averages = {n: w.copy() for n, w in start.items()}
    after = cases.by_hand("cnn", 8, "off", "sgd", dtype, tuple(range(1, STEPS + 1)))
    for step in range(1, STEPS + 1):
        weights = after[step][1]
        averages = {n: DECAY * average + (1 - DECAY) * weights[n] for n, average in averages.items()}
    return averages


@pytest.mark.parametrize("strategy", ["single", *STRATEGIES])
def test_the_averages_are_those_of_plain_torch_under_every_strategy(pool: Pool, strategy: str) -> None:
    settings = config(strategy)
    double = settings.dist.precision == "fp64"
    reports = pool.run(ranks_for(strategy), cases.trained, settings, "cnn", "sgd", (STEPS,))
    _, found = cases.assembled(reports, STEPS)
    expected = averages_by_hand(torch.float64 if double else torch.float32)
    assert {n.removesuffix(EMA) for n in found if n.endswith(EMA)} == expected.keys()
    for name, average in expected.items():
        mine = found[name + EMA]
        assert mine.dtype == average.dtype
        assert abs(mine - average).max() <= (1e-10 if double else 1e-5) * abs(average).max(), name
        assert abs(mine - found[name]).max() > 1e-4 * abs(average).max(), f"{name}: no other than the weight"


def before_and_after_an_overflow(world: World, settings: RunConfig) -> tuple[Bits, Bits, Bits]:
    engine = overflowing.engine_on(world, settings)
    overflowing.run_steps(engine, 0, overflowing.OVERFLOWS)
    before = held(engine, "ema")
    (*_, figures) = overflowing.run_steps(engine, overflowing.OVERFLOWS, overflowing.OVERFLOWS + 1)
    assert figures.skipped
    skipped = held(engine, "ema")
    overflowing.run_steps(engine, overflowing.OVERFLOWS + 1, overflowing.OVERFLOWS + 2)
    return before, skipped, held(engine, "ema")


@pytest.mark.parametrize("strategy", ["fsdp", "zero2"])
def test_a_skipped_step_changes_no_average(pool: Pool, strategy: str) -> None:
    settings = config(strategy, *overflowing.FP16)
    for before, skipped, later in pool.run(2, before_and_after_an_overflow, settings):
        assert before == skipped != later


@pytest.mark.parametrize("decay", ["0", "1", "-0.5"])
def test_a_decay_is_above_zero_and_below_one(decay: str) -> None:
    with pytest.raises(UserError, match=r"train\.ema"):
        config("ddp", f"train.ema={decay}")


def test_an_average_makes_another_experiment_and_none_does_not() -> None:
    without = config("ddp", "train.ema=null")
    assert digest(without) == digest(cases.config(DIGITS, 8, "dist.precision=fp64")) != digest(config("ddp"))


# -- evaluation


class Interrupted(Exception):
    pass


def evaluated_between(world: World, settings: RunConfig) -> tuple[Bits, dict[str, Tensor], Bits]:
    """Two steps, an evaluation that fails and one that does not, two more steps."""
    engine = engine_on(world, settings)
    warm_up(engine)
    run_steps(engine, range(2))
    averages = held(engine, "ema")
    with pytest.raises(Interrupted), engine.evaluation() as model:
        assert not model.training
        raise Interrupted
    before = held(engine)
    state = in_evaluation(engine)
    assert held(engine) == before
    run_steps(engine, range(2, STEPS))
    return averages, state, held(engine)


def never_evaluated(world: World, settings: RunConfig) -> tuple[dict[str, Tensor], Bits]:
    """The same steps; the weights and statistics after two of them by an engine without averages."""
    without = settings.model_copy(update={"train": settings.train.model_copy(update={"ema": None})})
    engine = engine_on(world, without)
    warm_up(engine)
    run_steps(engine, range(2))
    state = in_evaluation(engine)
    engine = engine_on(world, settings)
    warm_up(engine)
    run_steps(engine, range(STEPS))
    return state, held(engine)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_evaluation_uses_the_averages_and_leaves_no_trace(pool: Pool, strategy: str) -> None:
    """Not in the weights, nor in the copies that ZeRO computes with: the steps that follow are the same to the last bit."""
    settings, ranks = config(strategy), ranks_for(strategy)
    evaluated, others = pool.run(ranks, evaluated_between, settings), pool.run(ranks, never_evaluated, settings)
    assert [end for _, _, end in evaluated] == [end for _, end in others]
    state, plain = evaluated[0][1], others[0][0]
    parameters = dict(frozen_in_part().named_parameters())
    trained = {n for n, p in parameters.items() if p.requires_grad}
    assert {name for name, _, _ in evaluated[0][0]} == {n + EMA for n in trained}
    assert all(torch.equal(state[n], t) for n, t in plain.items() if n not in trained)  # frozen, and BatchNorm's statistics
    for averages, own, _ in evaluated:
        assert all(torch.equal(own[n], t) for n, t in state.items())
        for name, start, content in averages:
            whole = own[name.removesuffix(EMA)].numpy().tobytes()
            first = start * own[name.removesuffix(EMA)].element_size()
            assert whole[first : first + len(content)] == content, name
    assert any(not torch.equal(state[n], plain[n]) for n in trained)


# -- checkpoints


def saved(world: World, settings: RunConfig, folder: Path) -> tuple[Any, Bits]:
    """Two steps and a checkpoint, then two more: what was saved of the averages whole, and all that is held at the end."""
    engine = engine_on(world, settings)
    warm_up(engine)
    run_steps(engine, range(2))
    averages = parts(engine)
    save(world, folder, engine.entries(), Progress(2, 64, settings.dist.strategy, "digest", engine.scalars()))
    run_steps(engine, range(2, STEPS))
    return averages, held(engine)


def resumed(world: World, settings: RunConfig, folder: Path) -> tuple[Any, Bits]:
    engine = engine_on(world, settings)
    resume(world, engine, folder)
    averages = parts(engine)
    warm_up(engine)
    run_steps(engine, range(2, STEPS))
    return averages, held(engine)


def parts(engine: Engine) -> dict[int, dict[str, Any]]:
    """The averages as `cases.assembled` takes them."""
    entries = [e for e in engine.entries() if e.kind == "ema"]
    return {2: {"loss": 0.0, "entries": [(e.name, e.shape, e.start, e.tensor.numpy().copy(), e.replicated) for e in entries]}}


@pytest.mark.parametrize(
    ("before", "on", "after", "then_on"),
    [("fsdp", 3, "ddp", 2), ("ddp", 2, "fsdp", 3), ("zero1", 3, "zero3", 2), ("zero3", 4, "ddp", 3), ("hsdp", 4, "zero2", 3)],
)
def test_another_strategy_on_other_ranks_reads_the_averages_to_the_last_bit(
    pool: Pool, tmp_path: Path, before: str, on: int, after: str, then_on: int
) -> None:
    single = "dist.precision=fp32"
    _, wrote = cases.assembled([a for a, _ in pool.run(on, saved, config(before, single), tmp_path)], 2)
    _, read = cases.assembled([a for a, _ in pool.run(then_on, resumed, config(after, single), tmp_path)], 2)
    assert wrote and wrote.keys() == read.keys()
    assert all(wrote[name].tobytes() == read[name].tobytes() for name in wrote)


@pytest.mark.parametrize("strategy", ["ddp", "exact", "fsdp", "zero1", "zero3"])
def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(pool: Pool, tmp_path: Path, strategy: str) -> None:
    settings = config(strategy)
    unbroken = pool.run(3, saved, settings, tmp_path)
    again = pool.run(3, resumed, settings, tmp_path)
    assert [end for _, end in unbroken] == [end for _, end in again]


def started_from(world: World, settings: RunConfig, folder: Path) -> tuple[Bits, Bits]:
    engine = engine_on(world, settings)
    resume(world, engine, folder)
    return held(engine, "ema"), held(engine, "model")


def test_averages_that_a_checkpoint_lacks_begin_at_its_weights(pool: Pool, tmp_path: Path) -> None:
    """As where a fork sets `train.ema`."""
    pool.run(2, saved, config("ddp", "train.ema=null"), tmp_path)
    for averages, weights in pool.run(3, started_from, config("fsdp"), tmp_path):
        assert averages and set(averages) <= {(name + EMA, start, content) for name, start, content in weights}
