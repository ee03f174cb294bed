"""The engine on real ranks: the same training whatever their number."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.support.rank_pool import Pool
from benchmarks.support.resuming import resume
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.randomness import key, seed_everything
from phalanx.dist.strategies import exact_reduce
from tests.dist.tracing import collectives
from tests.support.running import DIGITS

SIZES = ["train.global_batch=32", "train.micro_batch=4", "train.steps=3", "dist.precision=fp64"]  # eight micro-batches
SEED = 3


def network() -> nn.Module:
    """A small network with BatchNorm and dropout, the same on every rank."""
    seed_everything(SEED)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
        nn.Linear(64, 5),
    )  # fmt: skip


def config(*overrides: str) -> RunConfig:
    return load([DIGITS], [*SIZES, "optim.weight_decay=0", "schedule.name=constant", "schedule.warmup_steps=0", *overrides])


def micro_batch(step: int, number: int) -> dict[str, Any]:
    """Four samples; their targets leave between none and three of them out."""
    generator = torch.Generator().manual_seed(key(step, number))
    image = torch.randn(4, 2, 8, 8, generator=generator)
    target = torch.randint(0, 5, (4,), generator=generator)
    target[: (step + number) % 4] = -100
    return {"image": image, "target": target}


def weights(batch: dict[str, Any]) -> dict[str, float]:
    return {"labels": float((batch["target"] >= 0).sum())}


def losses(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[Tensor, float]]:
    """One loss whose weight is known from the targets, and one whose weight depends on the prediction."""
    logits = model(batch["image"])
    chosen = logits.detach().max(1).values > 0
    labels = nn.functional.cross_entropy(logits, batch["target"], reduction="sum", ignore_index=-100)
    return {
        "labels": (labels, weights(batch)["labels"]),
        "size": (logits[chosen].square().sum(), float(chosen.sum())),
    }


def engine_on(world: World, settings: RunConfig) -> Engine:
    return Engine(network(), _sgd, lambda step: 0.05, settings, world)


def train(world: World, engine: Engine, steps: Sequence[int]) -> list[dict[str, float]]:
    """Trains; returns the losses of each step."""
    warm_up(engine)
    known = []
    for step in steps:
        batch = [micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        for part in engine.micro_batches(step, batch, [weights(b) for b in batch]):
            engine.backward(losses(engine.model, part))
        known += engine.step()
    known += engine.settle()
    return [figures.losses for figures in known]


def warm_up(engine: Engine) -> None:
    engine.warm_up(losses, [micro_batch(0, v) for v in range(engine.warm_up_share.first, engine.warm_up_share.last)])


def evaluated(engine: Engine) -> dict[str, Tensor]:
    """The weights and the averaged statistics."""
    with engine.evaluation() as model:
        return {n: t.detach().clone() for n, t in model.state_dict().items()}


def trained(world: World, *overrides: str) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    engine = engine_on(world, config(*overrides))
    history = train(world, engine, range(3))
    return evaluated(engine), history


def by_hand() -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """The same training in plain torch: one process, one loop over micro-batches, a model's statistics a micro-batch."""
    model = network().double()
    chains = [{n: b.clone() for n, b in model.named_buffers()} for _ in range(8)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    history = []
    for step in range(3):
        total = sum(weights(micro_batch(step, v))["labels"] for v in range(8))
        optimizer.zero_grad()
        sums = {"labels": 0.0, "size": 0.0}
        for v in range(8):
            for name, buffer in model.named_buffers():
                buffer.copy_(chains[v][name])
            seed_everything(key(1, "noise", step, v))
            batch = micro_batch(step, v)
            found = losses(model, {"image": batch["image"].double(), "target": batch["target"]})
            (labels, _), (size, chosen) = found["labels"], found["size"]
            share = {"labels": labels / total, "size": size / chosen / 8 if chosen else size * 0}
            (share["labels"] + share["size"]).backward()
            sums = {name: sums[name] + share[name].item() for name in sums}
            chains[v] = {n: b.clone() for n, b in model.named_buffers()}
        optimizer.step()
        history.append(sums)
    means = {n: torch.stack([c[n] for c in chains]).to(chains[0][n].dtype if "num" in n else torch.float64) for n in chains[0]}
    for name, buffer in model.named_buffers():
        buffer.copy_(means[name][0] if "num" in name else means[name].mean(0))
    return {n: t.clone() for n, t in model.state_dict().items()}, history


@pytest.mark.quick
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_trains_as_a_loop_written_by_hand(pool: Pool, ranks: int) -> None:
    expected, history = by_hand()
    for state, figures in pool.run(ranks, trained):
        assert state.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.allclose(state[name], tensor, rtol=1e-11, atol=1e-13), name
        assert len(figures) == 3
        for mine, theirs in zip(figures, history, strict=True):
            assert mine == pytest.approx(theirs, rel=1e-12)


def _bitwise(states: Sequence[dict[str, Tensor]]) -> None:
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_all_ranks_hold_the_same_bits(pool: Pool, ranks: int) -> None:
    _bitwise([state for state, _ in pool.run(ranks, trained, "dist.precision=fp32", "train.clip_norm=0.5")])


def _adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters.values(), lr=0.05)


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9)


OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}


def exactly_trained(
    world: World, optimizer: str, sizes: list[str], bucket_bytes: int = exact_reduce.CPU_BUCKET_BYTES
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Parameters, optimizer state and statistics after ten steps in float32, and the losses."""
    settings = config("dist.precision=fp32", "dist.reduce=exact", "train.clip_norm=1.0", *sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_reduce, "CPU_BUCKET_BYTES", bucket_bytes)
        engine = Engine(network(), OPTIMIZERS[optimizer], lambda step: 0.05, settings, world)
    history = train(world, engine, range(10))
    moments = {e.name: e.tensor.clone() for e in engine.entries() if e.kind == "optimizer"}
    return evaluated(engine) | moments, history


@pytest.mark.quick
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("global_batch", [32, 28])  # eight micro-batches, and seven
def test_exact_sums_give_the_same_bits_on_any_number_of_ranks(pool: Pool, optimizer: str, global_batch: int) -> None:
    sizes = [f"train.global_batch={global_batch}"]
    ((expected, history),) = pool.run(1, exactly_trained, optimizer, sizes)
    for ranks in (2, 3, 4):
        for state, figures in pool.run(ranks, exactly_trained, optimizer, sizes):
            _bitwise([expected, state])
            assert figures == history


def test_exact_sums_do_not_depend_on_the_size_of_buckets(pool: Pool) -> None:
    of_one_parameter = 1
    assert len(list(network().parameters())) > 2 * exact_reduce.IN_EXCHANGE + 1  # so that early ones are handed out and settled
    ((expected, history),) = pool.run(1, exactly_trained, "sgd", [])
    for state, figures in pool.run(3, exactly_trained, "sgd", [], of_one_parameter):
        _bitwise([expected, state])
        assert figures == history


def test_fast_sums_do_not_which_shows_that_the_test_can_fail(pool: Pool) -> None:
    ((alone, _),) = pool.run(1, trained, "dist.precision=fp32")
    (on_three, *_), *_ = pool.run(3, trained, "dist.precision=fp32")
    assert any(not torch.equal(alone[name], on_three[name]) for name in alone)


def warmed_up_twice(world: World) -> None:
    """A warm-up leaves no trace: not in buffers or statistics, gradients or random state."""
    engine = engine_on(world, config())
    train(world, engine, [0])
    before = {n: t.clone() for n, t in engine.unwrapped.state_dict().items()}
    rows = {n: r.clone() for n, r in engine.statistics.rows()}
    drawn = torch.random.get_rng_state()
    engine.warm_up(losses, [micro_batch(7, engine.mine.first)])
    assert all(torch.equal(t, before[n]) for n, t in engine.unwrapped.state_dict().items())
    assert all(torch.equal(r, rows[n]) for n, r in engine.statistics.rows())
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert all(p.grad is None for p in engine.unwrapped.parameters())


def test_the_warm_up_leaves_no_trace(pool: Pool) -> None:
    pool.run(2, warmed_up_twice)


def exchanged(world: World, *overrides: str) -> Counter[str]:
    """The collectives of the two steps after the first."""
    engine = engine_on(world, config("dist.precision=fp32", *overrides))
    train(world, engine, [0])
    with collectives() as found:
        for step in (1, 2):
            batch = [micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
            for part in engine.micro_batches(step, batch, [weights(b) for b in batch]):
                engine.backward(losses(engine.model, part))
            engine.step()
    return found


def test_a_step_has_one_small_collective_besides_the_gradients(pool: Pool) -> None:
    """The gradients fit into one bucket."""
    for found in pool.run(2, exchanged):
        assert found == {"c10d::allreduce_": 2 * 2}  # two steps, each the gradients and the message


SUMS = ("c10d::allreduce_", "c10d::_reduce_scatter_base_")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "hsdp", "zero1"])
def test_gradients_are_exchanged_once_a_step_however_many_micro_batches_a_rank_runs(pool: Pool, strategy: str) -> None:
    how = [f"dist.strategy={strategy}", *(["dist.shard_ranks=1"] if strategy == "hsdp" else [])]
    (few, _), (many, _) = (pool.run(2, exchanged, *how, f"train.global_batch={size}") for size in (8, 32))
    assert [few[name] for name in SUMS] == [many[name] for name in SUMS] != [0, 0]


@pytest.mark.parametrize("how", [["dist.strategy=fsdp", "dist.exchange=micro_batch"], ["dist.strategy=zero2"]])
def test_gradients_are_exchanged_every_micro_batch_where_memory_asks_for_it(pool: Pool, how: list[str]) -> None:
    (few, _), (many, _) = (pool.run(2, exchanged, *how, f"train.global_batch={size}") for size in (8, 32))
    messages = 2  # one a step, whatever the micro-batches
    per_micro_batch = [sum(found[name] for name in SUMS) - messages for found in (few, many)]
    assert per_micro_batch[1] == 4 * per_micro_batch[0]


def saved(world: World, folder: Path) -> None:
    engine = engine_on(world, config())
    train(world, engine, range(2))
    assert engine.all_finite()
    save(world, folder, engine.entries(), CheckpointInfo(2, 64, "ddp", "digest", engine.scalars()))


def gone_on(world: World, folder: Path) -> dict[str, Tensor]:
    """Restores into an engine with other weights, checks that everything is there again, and trains a step more."""
    engine = engine_on(world, config())
    with torch.no_grad():
        for parameter in engine.unwrapped.parameters():
            parameter.fill_(float("nan"))
    resume(world, engine, folder)
    train(world, engine, [2])
    return evaluated(engine)


def test_a_checkpoint_of_4_ranks_is_read_by_any_number(pool: Pool, tmp_path: Path) -> None:
    pool.run(4, saved, tmp_path)
    expected, _ = by_hand()
    for ranks in (4, 3, 2, 1):
        for state in pool.run(ranks, gone_on, tmp_path):
            for name, tensor in expected.items():
                assert torch.allclose(state[name], tensor, rtol=1e-11, atol=1e-13), name


def diverged(world: World) -> bool:
    engine = engine_on(world, config())
    if world.ranks.rank == 1:
        with torch.no_grad():
            engine.unwrapped[0].weight[0, 0, 0, 0] = float("inf")  # type: ignore[index]
    return engine.all_finite()


def test_a_parameter_that_is_not_finite_on_one_rank_is_known_to_all(pool: Pool) -> None:
    assert pool.run(3, diverged) == [False, False, False]


def agreed_on(world: World) -> list[tuple[bool, bool]]:
    """Rank 1 is asked to stop in the second step; by rank 2's clock it is time to save in the third."""
    engine = engine_on(world, config())
    warm_up(engine)
    agreed = []
    for step in range(3):
        batch = [micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        asked = step == 1 and world.ranks.rank == 1
        late = step == 2 and world.ranks.rank == 2
        for part in engine.micro_batches(step, batch, [weights(b) for b in batch], stop=asked, save=late):
            engine.backward(losses(engine.model, part))
        engine.step()
        agreed.append((engine.stop_agreed, engine.save_agreed))
    return agreed


def test_all_ranks_agree_on_the_step_to_stop_or_to_save_after(pool: Pool) -> None:
    assert pool.run(3, agreed_on) == [[(False, False), (True, False), (False, True)]] * 3
