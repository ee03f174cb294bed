"""`dist.reduce=exact` with `dist.sync_bn`: forwards in lockstep, statistics by one tree, the same bits on any ranks."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks import parity_cases as cases
from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.randomness import seed_everything
from phalanx.dist.step.phases import Phase
from phalanx.train.optim.optimizers import optimizer_factory
from tests.support.running import DIGITS

EXACT = ["dist.reduce=exact", "train.clip_norm=0.5"]


def config(micro_batches: int, *overrides: str) -> RunConfig:
    return cases.config(DIGITS, micro_batches, *EXACT, *overrides)


@pytest.mark.parametrize(
    ("sync_bn", "micro_batches", "optimizer"), [("all", 8, "sgd"), ("all", 7, "adamw"), ("2", 8, "adamw"), ("4", 8, "sgd")]
)
def test_synchronized_statistics_are_the_same_bits_on_any_ranks(
    pool: Pool, sync_bn: str, micro_batches: int, optimizer: str
) -> None:
    """With dropout, in float32: weights, moments and statistics."""
    settings = config(micro_batches, f"dist.sync_bn={sync_bn}")
    expected = cases.assembled(pool.run(1, cases.trained, settings, "cnn+dropout", optimizer, (5,)), 5)
    for ranks in (2, 3, 4):
        found = cases.assembled(pool.run(ranks, cases.trained, settings, "cnn+dropout", optimizer, (5,)), 5)
        assert found[0] == expected[0] and cases.differences(found, expected)["bitwise"], ranks


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("sync_bn", ["all", "2"])
def test_it_is_batchnorm_over_all_samples_of_the_group(pool: Pool, sync_bn: str, ranks: int) -> None:
    settings = cases.config(DIGITS, 8, "dist.reduce=exact", f"dist.sync_bn={sync_bn}", "dist.precision=fp64")
    found = cases.assembled(pool.run(ranks, cases.trained, settings, "cnn", "sgd", (1,)), 1)
    expected = cases.by_hand("cnn", 8, sync_bn, "sgd", torch.float64, (1,))[1]
    worst = cases.differences(found, expected)
    assert all(worst[kind] <= 1e-12 for kind in ("loss", "gradients", "weights", "buffers")), worst


# -- kinds of networks


class Branches(nn.Module):
    """Branches of which one is pooled to a value, as in ASPP; a sum of several; weights used twice; noise of all sources."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=d, dilation=d, bias=False), nn.BatchNorm2d(8)) for d in (1, 2, 3)
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.twice = nn.Conv2d(8, 8, 1, bias=False)
        self.once_more = nn.BatchNorm2d(8, affine=False, momentum=None)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.dropout(sum(branch(x) for branch in self.branches) + self.pooled(x) + x, 0.1)  # type: ignore[arg-type]
        x = self.once_more(self.twice(self.twice(x).relu()))
        scale = 1 + 0.1 * float(torch.rand(())) + 0.1 * float(seeded_by_numpy())
        return self.head(x.mean((2, 3)) * scale)


def seeded_by_numpy() -> float:
    import random

    import numpy

    return numpy.random.rand() + random.random()


class PartlyFrozen(nn.Module):
    """Statistics are gathered, though nothing before them is trained, and no gradient is asked for there."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8))
        self.neck, self.norm, self.head = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x).relu()
        assert torch.is_grad_enabled()
        return self.head(self.norm(self.neck(x)).mean((2, 3)))


def losses(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, float | Tensor]]:
    """The weight of the second depends on predictions."""
    logits, target = model(batch["image"]), batch["target"]
    sure = (logits.detach().softmax(1).amax(1) > 0.22).to(logits.dtype)
    each = F.cross_entropy(logits, target, reduction="none", ignore_index=-100)
    return {"labels": (each.sum(), cases.weights(batch)["labels"]), "sure": ((each * sure).sum(), sure.sum())}


def sgd(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters.values(), lr=0.1, momentum=0.9)


def engine_for(world: World, settings: RunConfig, kind: Callable[[], nn.Module], losses_of: Any = losses) -> Engine:
    seed_everything(7)
    engine = Engine(kind(), sgd, lambda step: 0.1, settings, world)
    engine.warm_up(losses_of, [cases.micro_batch(0, v) for v in range(engine.mine.first, engine.mine.last)])
    return engine


def run_steps(engine: Engine, steps: range, losses_of: Any = losses) -> list[dict[str, float]]:
    for step in steps:
        batch = [cases.micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        for own in engine.micro_batches(step, batch, [{"labels": cases.weights(b)["labels"]} for b in batch]):
            engine.backward(engine.losses(losses_of, own))
        engine.step()
    return [figures.losses for figures in engine.settle()]


def trained(world: World, settings: RunConfig, kind: Callable[[], nn.Module]) -> tuple[list[Any], dict[str, Tensor]]:
    engine = engine_for(world, settings, kind)
    found = run_steps(engine, range(4))
    with engine.evaluation() as model:
        return found, {n: t.detach().clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("kind", [Branches, PartlyFrozen])
@pytest.mark.parametrize("how", [[], ["dist.precision=bf16"], ["dist.channels_last=true"], ["train.ema=0.9"]], ids=str)
def test_every_kind_of_network_is_the_same_bits_on_any_ranks(pool: Pool, kind: Callable[[], nn.Module], how: list[str]) -> None:
    settings = config(6, "dist.sync_bn=all", *how)
    expected = pool.run(1, trained, settings, kind)[0]
    assert expected[0][-1]["sure"] > 0
    for ranks in (2, 4):
        for found in pool.run(ranks, trained, settings, kind):
            assert found[0] == expected[0], ranks
            for name, value in expected[1].items():
                assert torch.equal(found[1][name], value), (ranks, name)


# -- what cannot be


class Recomputed(nn.Module):
    """Its BatchNorm runs again in the backward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(lambda y: self.norm(self.conv(y)).relu(), x, use_reentrant=False)  # type: ignore[no-untyped-call]
        return self.head(x.mean((2, 3)))


class SomeBatches(nn.Module):
    """Batches whose first pixel is positive skip a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.extra, self.head = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        skipped = float(x[0, 0, 0, 0]) > 0
        y = self.norm(self.conv(x))
        y = y * (1 + 0 * (self.extra.weight.sum() + self.extra.bias.sum())) if skipped else self.extra(y)
        return self.head(y.mean((2, 3)))


class SkippedLater(SomeBatches):
    """One micro-batch of a later step skips the layer."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = x.clone()
        x[0, 0, 0, 0] = 1.0 if self.calls == 14 else -1.0
        return super().forward(x)


class Broken(nn.Module):
    """Fails in the forward of one micro-batch, while the others wait."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head, self.calls = nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 12:
            raise ZeroDivisionError("my own mistake")
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def failed(world: World, settings: RunConfig, kind: Callable[[], nn.Module]) -> tuple[str, str, bool]:
    try:
        run_steps(engine_for(world, settings, kind), range(6))
    except (UserError, ZeroDivisionError) as error:
        return type(error).__name__, str(error), torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return "", "", False


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_layer_that_some_micro_batches_skip_is_refused_on_all_ranks(pool: Pool, ranks: int) -> None:
    for kind, message, left in pool.run(ranks, failed, config(4, "dist.sync_bn=all"), SomeBatches):
        assert kind == "UserError" and "the same BatchNorm layers in the same order" in message and left


def test_a_layer_that_one_micro_batch_skips_in_a_later_step_is_refused(pool: Pool) -> None:
    kind, message, left = pool.run(1, failed, config(4, "dist.sync_bn=all"), SkippedLater)[0]
    assert kind == "UserError" and "the same BatchNorm layers in the same order" in message and left


def test_errors_in_one_of_the_forwards_are_raised_as_they_are(pool: Pool) -> None:
    bf16 = "dist.precision=bf16"
    assert pool.run(1, failed, config(4, "dist.sync_bn=all", bf16), Broken)[0] == ("ZeroDivisionError", "my own mistake", True)
    kind, message, _ = pool.run(1, failed, config(4, "dist.sync_bn=all"), Recomputed)[0]
    assert kind == "UserError" and "the BatchNorm layer norm runs in training mode outside the forward" in message


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["dist.strategy=fsdp"],
            "dist.reduce=exact with dist.sync_bn=all runs .* in lockstep, while fsdp gathers",
        ),
        (["dist.compile=true"], "which compiled code cannot. Set dist.compile=false"),
    ],
)
def test_what_cannot_run_in_lockstep_is_refused_by_name(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load([DIGITS], ["dist.reduce=exact", "dist.sync_bn=all", *overrides])


# -- several phases


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))
        self.other = nn.Sequential(nn.Flatten(), nn.Linear(128, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))


def _loss_of(part: str) -> Any:
    def of(model: Any, batch: Mapping[str, Any]) -> dict[str, tuple[Tensor, float]]:
        logits = getattr(model, part)(batch["image"])
        target = batch["target"].clamp(min=0)
        return {part: (F.cross_entropy(logits, target, reduction="sum"), float(len(target)))}

    return of


def trained_in_phases(world: World, settings: RunConfig) -> dict[str, Tensor]:
    phases = [Phase("one", _loss_of("one"), ("one.*",)), Phase("other", _loss_of("other"), ("other.*",))]
    seed_everything(7)
    model = Pair()
    engine = Engine(model, optimizer_factory(settings.optim, model, phases=phases), lambda step: 0.1, settings, world, phases)
    engine.warm_up(phases, [cases.micro_batch(0, v) for v in range(engine.mine.first, engine.mine.last)])
    for step in range(3):
        batch = [cases.micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        weights = [{"one": 4.0, "other": 4.0} for _ in batch]
        for phase in engine.phases(step):
            for own in engine.micro_batches(step, batch, weights):
                engine.backward(engine.losses(phase.losses, own))
            engine.step()
    engine.settle()
    with engine.evaluation() as found:
        return {n: t.detach().clone() for n, t in found.state_dict().items()}


def test_phases_of_a_step_run_in_lockstep_too(pool: Pool) -> None:
    settings = config(6, "dist.sync_bn=all")
    expected = pool.run(1, trained_in_phases, settings)[0]
    for ranks in (2, 3):
        found = pool.run(ranks, trained_in_phases, settings)[0]
        assert all(torch.equal(found[name], value) for name, value in expected.items())
