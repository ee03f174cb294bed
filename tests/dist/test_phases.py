"""Several phases in a step: a GAN with a gradient penalty, against a plain loop with two optimizers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.randomness import key, seed_everything
from phalanx.dist.step.phases import Phase
from phalanx.train.optim.optimizers import optimizer_factory
from tests.support.running import DIGITS

MICRO_BATCHES, SIZE, STEPS = 6, 4, 20
Losses = dict[str, tuple[Tensor, float]]


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5))
        self.discriminator = nn.Sequential(nn.Linear(5, 16), nn.Softplus(), nn.Linear(16, 1))


def discriminator_losses(gan: Any, batch: Mapping[str, Tensor]) -> Losses:
    """WGAN-GP (Gulrajani et al., NIPS 2017, arXiv:1704.00028, algorithm 1)."""
    with torch.no_grad():
        fake = gan.generator(batch["noise"])
    mixed = (batch["share"] * batch["real"] + (1 - batch["share"]) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(gan.discriminator(mixed).sum(), mixed, create_graph=True)
    penalty = (slope.norm(dim=1) - 1).square().sum()
    difference = (gan.discriminator(fake) - gan.discriminator(batch["real"])).sum()
    return {"critic": (difference, len(fake)), "penalty": (10 * penalty, len(fake))}


def generator_losses(gan: Any, batch: Mapping[str, Tensor]) -> Losses:
    return {"generator": (-gan.discriminator(gan.generator(batch["noise"])).sum(), len(batch["noise"]))}


def phases(every: int = 2) -> list[Phase]:
    return [
        Phase("discriminator", discriminator_losses, ("discriminator.*",)),
        Phase("generator", generator_losses, ("generator.*",), every),
    ]


def micro_batch(step: int, number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(key(step, number))
    columns = {"noise": 3, "real": 5, "share": 1}
    return {name: torch.rand(SIZE, n, generator=generator, dtype=torch.float64) for name, n in columns.items()}


def built() -> Gan:
    seed_everything(3)
    return Gan().double()


def settings(*overrides: str) -> RunConfig:
    sizes = [f"train.global_batch={MICRO_BATCHES * SIZE}", f"train.micro_batch={SIZE}", "dist.precision=fp64"]
    optim = ["optim.name=adam", "optim.lr=1e-3", "optim.betas=[0.5, 0.9]", "optim.momentum=0.9", "optim.weight_decay=0"]
    phases = ["optim.phases={generator: {name: sgd, lr: 0.02, momentum: 0.8}}"]
    return load([DIGITS], [*sizes, *optim, *phases, "schedule.name=constant", "schedule.warmup_steps=0", *overrides])


def trained(world: World, *overrides: str) -> tuple[dict[str, Tensor], dict[str, Tensor], list[dict[str, float]]]:
    """The weights and statistics, the optimizers' states, and the losses of each step."""
    config, gan = settings("dist.device=cpu", *overrides), built()
    factory = optimizer_factory(config.optim, gan, phases=phases())
    engine = Engine(gan, factory, lambda step: config.optim.lr, config, world, phases())
    share = engine.warm_up_share
    engine.warm_up(phases(), [micro_batch(0, v) for v in range(share.first, share.last)])
    known = []
    for step in range(STEPS):
        batch = [micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        weights = [{"critic": float(SIZE), "penalty": float(SIZE), "generator": float(SIZE)} for _ in batch]
        for phase in engine.phases(step):
            for own in engine.micro_batches(step, batch, weights):
                engine.backward(phase.losses(engine.model, own))
            known += engine.step()
    known += engine.settle()
    kept = {e.name: _full(e.tensor) for e in engine.entries() if e.kind == "optimizer"}
    with engine.evaluation() as model:
        weights_of = {name: value.clone() for name, value in model.state_dict().items()}
    return weights_of, kept, [figures.losses for figures in known]


def _full(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


@pytest.fixture(scope="module")
def plain() -> tuple[dict[str, Tensor], dict[str, Tensor], list[dict[str, float]]]:
    """As a hand-written loop trains: gradients of micro-batches added up, an optimizer for each network."""
    gan, total, losses = built(), MICRO_BATCHES * SIZE, []
    critic = torch.optim.Adam(gan.discriminator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    generator = torch.optim.SGD(gan.generator.parameters(), lr=0.02, momentum=0.8)
    for step in range(STEPS):
        seen = dict[str, float]()
        due = [(discriminator_losses, critic), (generator_losses, generator)][: 2 if step % 2 == 0 else 1]
        for losses_of, optimizer in due:
            gan.zero_grad()
            for v in range(MICRO_BATCHES):
                for name, (value, _) in losses_of(gan, micro_batch(step, v)).items():
                    (value / total).backward(retain_graph=True)
                    seen[name] = seen.get(name, 0.0) + float(value.detach()) / total
            optimizer.step()
        losses.append(seen)
    states = {"discriminator": (gan.discriminator, critic), "generator": (gan.generator, generator)}
    kept = {
        f"{part}.{name}@{key}": value
        for part, (module, optimizer) in states.items()
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor) and value.dim()
    }
    return dict(gan.state_dict()), kept, losses


@pytest.mark.parametrize(
    ("strategy", "ranks"), [("ddp", 1), ("ddp", 2), ("ddp", 3), ("fsdp", 1), ("fsdp", 2), ("fsdp", 3), ("hsdp", 4)]
)
def test_a_gan_is_the_plain_loop_with_two_optimizers(
    pool: Pool, plain: tuple[dict[str, Tensor], dict[str, Tensor], list[dict[str, float]]], strategy: str, ranks: int
) -> None:
    shards = ["dist.shard_ranks=2"] if strategy == "hsdp" else []
    weights, kept, losses = pool.run(ranks, trained, f"dist.strategy={strategy}", *shards)[0]
    for name, value in plain[0].items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(weights[name], value, rtol=1e-10, atol=1e-12, msg=name)
    assert [list(step) for step in losses] == [list(step) for step in plain[2]]
    for step, (ours, expected) in enumerate(zip(losses, plain[2], strict=True)):
        assert ours == pytest.approx(expected, rel=1e-10, abs=1e-12), step
    if strategy == "ddp":
        assert kept.keys() == plain[1].keys()
        for name, value in plain[1].items():
            torch.testing.assert_close(kept[name], value, rtol=1e-10, atol=1e-12, msg=name)


def test_with_exact_sums_a_gan_is_the_same_on_any_ranks_and_when_sharded(pool: Pool) -> None:
    exact = ["dist.reduce=exact", "dist.precision=fp32"]
    expected = pool.run(1, trained, *exact)[0]
    for ranks, strategy in ((2, "ddp"), (3, "ddp"), (2, "fsdp"), (3, "fsdp")):
        weights, _, losses = pool.run(ranks, trained, *exact, f"dist.strategy={strategy}")[0]
        assert losses == expected[2]
        for name, value in expected[0].items():
            assert torch.equal(weights[name], value), (ranks, strategy, name)


def refused(world: World, wrong: Sequence[Phase], *overrides: str) -> str:
    config, gan = settings("dist.device=cpu", *overrides), built()
    try:
        factory = optimizer_factory(config.optim, gan, phases=wrong)
        engine = Engine(gan, factory, lambda step: config.optim.lr, config, world, wrong)
        engine.warm_up(wrong, [micro_batch(0, v) for v in range(engine.warm_up_share.first, engine.warm_up_share.last)])
    except UserError as error:
        return str(error)
    return ""


def test_phases_that_cannot_be_are_refused(pool: Pool) -> None:
    one, two = phases()
    cases: list[tuple[list[Phase], list[str], str]] = [
        ([one, Phase("generator", generator_losses, ("generator.0.*",))], [], "trains generator.1.weight and 3 more"),
        ([one, Phase("generator", generator_losses, ("*",))], [], "both train discriminator.0.bias"),
        ([one, Phase("generator", generator_losses, ("generater.*",))], [], "no trained parameter has such a name"),
        ([Phase("generator", discriminator_losses, ("discriminator.*",)), two], [], "a name of its own"),
        ([one, Phase("generator", discriminator_losses, ("generator.*",))], [], "no loss depends on the parameter generator"),
        ([one, Phase("other", generator_losses, ("generator.*",))], [], "optim.phases.generator: the task has no such phase"),
        ([Phase("d", discriminator_losses, ("d*",), 2), Phase("generator", two.losses, ("g*",), 3)], [], "in every step"),
        ([one, two], ["dist.strategy=zero1", "dist.precision=fp32"], "dist.strategy=zero1 runs one optimizer"),
        ([one, two], ["dist.precision=fp16"], "dist.precision=fp16 scales the loss of one optimizer"),
    ]
    for wrong, overrides, sentence in cases:
        assert sentence in pool.run(1, refused, wrong, *overrides)[0], sentence


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("{generator: {rate: 1}}", "optim.phases.generator.rate"),
        ("{generator: {lr: -1}}", "optim.phases.generator.lr"),
        ("{generator: {name: lamb}}", "optim.phases.generator.name"),
        ("{generator: {nesterov: true, momentum: 0}}", "Nesterov momentum"),
    ],
)
def test_wrong_settings_of_a_phase_are_refused(value: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        settings(f"optim.phases={value}")
