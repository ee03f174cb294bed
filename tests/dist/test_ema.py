"""Averages are those of plain torch under every strategy, and evaluation borrows for them the place of what they average."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from benchmarks import parity_cases as cases
from benchmarks.support.rank_pool import Pool
from benchmarks.support.resuming import resume
from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig, digest
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.checkpoint.layout import EMA, MICRO_BATCHES
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.comm.process_group import World
from phalanx.dist.ema import shares
from phalanx.dist.engine import Engine
from tests.dist import test_precision as overflowing
from tests.support.running import RESNET18

DECAY = 0.9
RAMP = 3
RAMPED = f"train.ema_ramp={RAMP}"
DIGEST_OF_BEFORE = "967fe23a70d9a2bb"  # of `config("ddp")`, computed before there was a ramp
# Those with a constant decay and averages of the weights alone, as runs of before train.ema_ramp have them.
CONSTANT = ("single", "ddp", "fsdp", "zero1")
STEPS = 4
STRATEGY_NAMES = ["exact", "exact fsdp", *(name for name, spec in STRATEGIES.items() if not spec.one_rank)]
Bits = list[tuple[str, int, bytes]]  # name, first element and content of what a rank holds


def config(strategy: str, *overrides: str) -> RunConfig:
    """Of eight micro-batches, in float64 where the strategy has it."""
    name = strategy.removeprefix("exact").strip() or "ddp"
    how = [f"dist.strategy={name}", "dist.reduce=exact" if strategy.startswith("exact") else "dist.reduce=fast"]
    shards = ["dist.shard_ranks=2"] if name == "hsdp" else []
    precision = "fp32" if name.startswith("zero") else "fp64"
    ema = [f"train.ema={DECAY}", *([] if strategy in CONSTANT else [RAMPED])]
    return cases.config(RESNET18, 8, *how, *shards, f"dist.precision={precision}", *ema, *overrides)


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
            engine.backward(engine.losses(cases.losses, part))
        engine.step()
    engine.settle()


def held(engine: Engine, kind: str | None = None) -> Bits:
    entries = [e for e in engine.entries() if kind in (None, e.kind)]
    return [(e.name, e.start, e.tensor.detach().numpy().tobytes()) for e in entries]


def averages(engine: Engine) -> Bits:
    return held(engine, "ema") + held(engine, "ema_buffers")


def in_evaluation(engine: Engine) -> dict[str, Tensor]:
    with engine.evaluation() as model:
        return {n: t.detach().clone() for n, t in model.state_dict().items()}


# -- the average


def averages_by_hand(dtype: torch.dtype, ramp: int | None) -> dict[str, numpy.ndarray]:
    """From training in plain torch, `[elements]` each: of the weights, and with a ramp of BatchNorm's statistics."""
    model = cases.build("cnn").to(dtype)
    averages = {n: p.detach().numpy().reshape(-1) for n, p in model.named_parameters()}
    if ramp is not None:
        floats = {n: b for n, b in model.named_buffers() if b.is_floating_point()}
        averages |= {n + MICRO_BATCHES: b.repeat(8, 1).numpy().reshape(-1) for n, b in floats.items()}
    after = cases.by_hand("cnn", 8, "off", "sgd", dtype, tuple(range(1, STEPS + 1)))
    for step in range(1, STEPS + 1):
        decay = DECAY if ramp is None else DECAY * (1 - math.exp(-step / ramp))
        averages = {n: decay * average + (1 - decay) * after[step][1][n] for n, average in averages.items()}
    return averages


@pytest.mark.parametrize("strategy", ["single", *STRATEGY_NAMES])
def test_the_averages_are_those_of_plain_torch_under_every_strategy(pool: Pool, strategy: str) -> None:
    settings = config(strategy)
    double = settings.dist.precision == "fp64"
    reports = pool.run(ranks_for(strategy), cases.trained, settings, "cnn", "sgd", (STEPS,))
    _, found = cases.assembled(reports, STEPS)
    expected = averages_by_hand(torch.float64 if double else torch.float32, settings.train.ema_ramp)
    assert {n.removesuffix(EMA) for n in found if n.endswith(EMA)} == expected.keys()
    for name, average in expected.items():
        mine = found[name + EMA]
        assert mine.dtype == average.dtype
        assert abs(mine - average).max() <= (1e-10 if double else 1e-5) * abs(average).max(), name
        assert abs(mine - found[name]).max() > 1e-4 * abs(average).max(), f"{name}: no other than what it averages"


def test_copies_come_before_the_average_and_updates_only_every_so_many_steps(pool: Pool) -> None:
    """As torchvision's references: after step 1 a copy of weights and statistics, after step 3 their average; nothing else."""
    settings = config("ddp", "train.ema_every=2", "train.ema_start=2")
    _, found = cases.assembled(pool.run(3, cases.trained, settings, "cnn", "sgd", (STEPS,)), STEPS)
    after = cases.by_hand("cnn", 8, "off", "sgd", torch.float64, (1, 3))
    averaged = {n: DECAY * after[1][1][n] + (1 - DECAY) * after[3][1][n] for n in after[3][1]}
    compared = {n.removesuffix(EMA) for n in found if n.endswith(EMA)}
    assert any(name.endswith(MICRO_BATCHES) for name in compared)
    for name in compared:
        assert abs(found[name + EMA] - averaged[name]).max() <= 1e-10 * abs(averaged[name]).max(), name


def test_updates_are_counted_in_each_epoch() -> None:
    """Ten samples, three a step: epochs begin with the steps 0, 4 (sample 12), 7 (21) and 10 (30)."""
    is_due = shares.in_each_epoch(2, 3, 10)
    assert [step for step in range(14) if is_due(step + 1)] == [0, 2, 4, 6, 7, 9, 10, 12]
    assert [step for step in range(6) if shares.in_each_epoch(2, 3, None)(step + 1)] == [0, 2, 4]
    assert all(shares.in_each_epoch(5, 100, 10)(update) for update in range(1, 9))  # several epochs a step


def before_and_after_an_overflow(world: World, settings: RunConfig) -> tuple[Bits, Bits, Bits]:
    engine = overflowing.engine_on(world, settings)
    overflowing.run_steps(engine, 0, overflowing.OVERFLOWS)
    before = averages(engine)
    (*_, figures) = overflowing.run_steps(engine, overflowing.OVERFLOWS, overflowing.OVERFLOWS + 1)
    assert figures.skipped
    skipped = averages(engine)
    overflowing.run_steps(engine, overflowing.OVERFLOWS + 1, overflowing.OVERFLOWS + 2)
    return before, skipped, averages(engine)


@pytest.mark.parametrize("strategy", ["fsdp", "zero2"])
def test_a_skipped_step_changes_no_average(pool: Pool, strategy: str) -> None:
    settings = config(strategy, *overflowing.FP16, RAMPED)
    for before, skipped, later in pool.run(2, before_and_after_an_overflow, settings):
        assert before == skipped != later


@pytest.mark.parametrize("decay", ["0", "1", "-0.5"])
def test_a_decay_is_above_zero_and_below_one(decay: str) -> None:
    with pytest.raises(UserError, match=r"train\.ema"):
        config("ddp", f"train.ema={decay}")


def test_an_average_makes_another_experiment_and_none_does_not() -> None:
    without = config("ddp", "train.ema=null")
    assert digest(without) == digest(cases.config(RESNET18, 8, "dist.precision=fp64")) != digest(config("ddp"))


def test_a_ramp_makes_another_experiment_and_an_average_of_before_is_the_one_that_it_was() -> None:
    assert (
        digest(config("ddp"))
        == digest(config("ddp", "train.ema_ramp=null"))
        == DIGEST_OF_BEFORE
        != digest(config("ddp", RAMPED))
    )


@pytest.mark.parametrize("key", ["ema_ramp", "ema_start", "ema_every"])
def test_how_to_average_needs_an_average(key: str) -> None:
    with pytest.raises(UserError, match=rf"train\.{key} needs an average"):
        config("ddp", "train.ema=null", f"train.{key}=3")


def test_a_ramp_and_copies_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"train\.ema_ramp and train\.ema_start are two ways to begin an average"):
        config("ddp", RAMPED, "train.ema_start=2")


# -- evaluation


class Interrupted(Exception):
    pass


def evaluated_between(world: World, settings: RunConfig) -> tuple[Bits, dict[str, Tensor], Bits]:
    """Two steps, an evaluation that fails and one that does not, two more steps."""
    engine = engine_on(world, settings)
    warm_up(engine)
    run_steps(engine, range(2))
    own = averages(engine)
    with pytest.raises(Interrupted), engine.evaluation() as model:
        assert not model.training
        raise Interrupted
    before = held(engine)
    state = in_evaluation(engine)
    assert held(engine) == before
    run_steps(engine, range(2, STEPS))
    return own, state, held(engine)


def never_evaluated(world: World, settings: RunConfig) -> tuple[dict[str, Tensor], Bits]:
    """The same steps; the weights and statistics after two of them by an engine without averages."""
    without = settings.model_copy(update={"train": settings.train.model_copy(update={"ema": None, "ema_ramp": None})})
    engine = engine_on(world, without)
    warm_up(engine)
    run_steps(engine, range(2))
    state = in_evaluation(engine)
    engine = engine_on(world, settings)
    warm_up(engine)
    run_steps(engine, range(STEPS))
    return state, held(engine)


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_evaluation_uses_the_averages_and_leaves_no_trace(pool: Pool, strategy: str) -> None:
    """Not in the weights, nor in the copies that ZeRO computes with: the steps that follow are the same to the last bit.

    BatchNorm's statistics are those of training with a constant decay, and the averages of them with one that rises.
    """
    settings, ranks = config(strategy), ranks_for(strategy)
    evaluated, others = pool.run(ranks, evaluated_between, settings), pool.run(ranks, never_evaluated, settings)
    assert [end for _, _, end in evaluated] == [end for _, end in others]
    state, plain = evaluated[0][1], others[0][0]
    parameters = dict(frozen_in_part().named_parameters())
    trained = {n for n, p in parameters.items() if p.requires_grad}
    statistics = {n for n, t in plain.items() if n not in parameters and t.is_floating_point() and strategy not in CONSTANT}
    expected = {n + EMA for n in trained} | {n + MICRO_BATCHES + EMA for n in statistics}
    assert {name for name, _, _ in evaluated[0][0]} == expected
    assert all(torch.equal(state[n], t) for n, t in plain.items() if n not in trained | statistics)
    assert not any(torch.equal(state[n], plain[n]) for n in statistics)
    for n in statistics:
        rows = [p for own, _, _ in evaluated for name, _, p in own if name == n + MICRO_BATCHES + EMA]
        every = torch.frombuffer(bytearray(b"".join(rows)), dtype=state[n].dtype).view(8, -1)
        assert torch.allclose(state[n], every.mean(0))
    for averages, own, _ in evaluated:
        assert all(torch.equal(own[n], t) for n, t in state.items())
        for name, start, content in averages:
            if MICRO_BATCHES in name:
                continue
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
    own = parts(engine)
    save(world, folder, engine.entries(), CheckpointInfo(2, 64, settings.dist.strategy, "digest", engine.scalars()))
    run_steps(engine, range(2, STEPS))
    return own, held(engine)


def resumed(world: World, settings: RunConfig, folder: Path) -> tuple[Any, Bits]:
    engine = engine_on(world, settings)
    resume(world, engine, folder)
    own = parts(engine)
    warm_up(engine)
    run_steps(engine, range(2, STEPS))
    return own, held(engine)


def parts(engine: Engine) -> dict[int, dict[str, Any]]:
    """The averages as `cases.assembled` takes them."""
    entries = [e for e in engine.entries() if e.kind in ("ema", "ema_buffers")]
    return {2: {"loss": 0.0, "entries": [(e.name, e.shape, e.start, e.tensor.numpy().copy(), e.replicated) for e in entries]}}


@pytest.mark.parametrize(
    ("before", "on", "after", "then_on"),
    [("fsdp", 3, "ddp", 2), ("ddp", 2, "fsdp", 3), ("zero1", 3, "zero3", 2), ("zero3", 4, "ddp", 3), ("hsdp", 4, "zero2", 3)],
)
def test_another_strategy_on_other_ranks_reads_the_averages_to_the_last_bit(
    pool: Pool, tmp_path: Path, before: str, on: int, after: str, then_on: int
) -> None:
    single = ("dist.precision=fp32", RAMPED)
    _, wrote = cases.assembled([a for a, _ in pool.run(on, saved, config(before, *single), tmp_path)], 2)
    _, read = cases.assembled([a for a, _ in pool.run(then_on, resumed, config(after, *single), tmp_path)], 2)
    assert any(MICRO_BATCHES in name for name in wrote) and wrote.keys() == read.keys()
    assert all(wrote[name].tobytes() == read[name].tobytes() for name in wrote)


@pytest.mark.quick
@pytest.mark.parametrize("strategy", ["ddp", "exact", "fsdp", "zero1", "zero3"])
def test_a_resumed_run_is_the_unbroken_one_to_the_last_bit(pool: Pool, tmp_path: Path, strategy: str) -> None:
    settings = config(strategy, *([RAMPED] if strategy != "fsdp" else []))
    unbroken = pool.run(3, saved, settings, tmp_path)
    again = pool.run(3, resumed, settings, tmp_path)
    assert [end for _, end in unbroken] == [end for _, end in again]


def started_from(world: World, settings: RunConfig, folder: Path) -> tuple[Bits, Bits]:
    engine = engine_on(world, settings)
    resume(world, engine, folder)
    return averages(engine), held(engine, "model") + held(engine, "statistics")


@pytest.mark.parametrize("before", ["train.ema=null", "train.ema=0.9"])
def test_averages_that_a_checkpoint_lacks_begin_at_its_weights_and_statistics(pool: Pool, tmp_path: Path, before: str) -> None:
    """As where a fork sets `train.ema`, or `train.ema_ramp`."""
    pool.run(2, saved, config("ddp", before), tmp_path)
    for own, sources in pool.run(3, started_from, config("fsdp", RAMPED), tmp_path):
        lacked = [one for one in own if before == "train.ema=null" or MICRO_BATCHES in one[0]]
        assert lacked and set(lacked) <= {(name + EMA, start, content) for name, start, content in sources}


def test_averages_that_are_not_wanted_any_more_are_left(pool: Pool, tmp_path: Path) -> None:
    """As where a fork takes `train.ema_ramp` away, and so averages the weights alone."""
    pool.run(2, saved, config("ddp", RAMPED), tmp_path)
    for own, _ in pool.run(2, started_from, config("ddp"), tmp_path):
        assert own and not any(MICRO_BATCHES in name for name, _, _ in own)


# -- what it is for


class WithInfinity(nn.Module):
    """A classifier with BatchNorm, a buffer that training changes, and one that never changes and is infinite in part."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return self.net(images * 3 + 20)  # type: ignore[no-any-return]  # far from what BatchNorm's statistics begin at


def accuracies(world: World, *ema: str) -> tuple[float, dict[str, Tensor]]:
    """Of a run of 80 steps on digits, by the average; and the buffers that it was evaluated with."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(digits.target)
    torch.manual_seed(0)
    settings = cases.config(RESNET18, 2, *ema)
    engine = Engine(WithInfinity(), lambda named: torch.optim.AdamW(named.values(), lr=3e-3), lambda _: 3e-3, settings, world)

    def losses_of(model: nn.Module, batch: Any) -> dict[str, tuple[Tensor, float]]:
        return {"ce": (nn.functional.cross_entropy(model(batch["image"]), batch["target"], reduction="sum"), 32.0)}

    def micro_batch(number: int) -> dict[str, Tensor]:
        place = number * 32 % 1200
        return {"image": images[place : place + 32], "target": labels[place : place + 32]}

    engine.warm_up(losses_of, [micro_batch(0)])
    for step in range(80):
        batch = [micro_batch(2 * step), micro_batch(2 * step + 1)]
        for part in engine.micro_batches(step, batch, [{"ce": 32.0}] * 2):
            engine.backward(losses_of(engine.model, part))
        engine.step()
    with engine.evaluation() as model, torch.inference_mode():
        right = (model(images[1280:]).argmax(1) == labels[1280:]).float().mean().item()
        return right, {name: buffer.clone() for name, buffer in model.named_buffers()}


def test_the_average_of_a_short_run_with_batchnorm_is_about_as_good_as_its_weights(pool: Pool) -> None:
    [(weights, last)] = pool.run(1, accuracies)
    [(average, averaged)] = pool.run(1, accuracies, "train.ema=0.995", "train.ema_ramp=26")
    [(without_ramp, _)] = pool.run(1, accuracies, "train.ema=0.995")
    assert weights > 0.8 and average > weights - 0.03 and without_ramp < weights - 0.3
    assert 0 < averaged["seen"] < last["seen"] and torch.equal(averaged["mask"], last["mask"])
