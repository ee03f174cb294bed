"""With activation checkpointing weights, optimizer and statistics are the same bits as without, under every strategy."""

import weakref
from typing import ClassVar

import pytest
import torch
from torch import nn

from benchmarks import parity_cases as cases
from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.dist import activation_checkpointing
from phalanx.dist.comm.process_group import World
from tests.dist.test_lockstep import engine_for, losses
from tests.support.running import DIGITS

STEPS = 2


def trained(pool: Pool, ranks: int, model: str, *overrides: str) -> tuple[float, cases.Tensors]:
    settings = cases.config(cases.RECIPE, 4, *overrides)
    return cases.assembled(pool.run(ranks, cases.trained, settings, model, "adamw", (STEPS,)), STEPS)


@pytest.mark.parametrize("model", ["cnn+dropout", "transformer"])
@pytest.mark.parametrize(("strategy", "ranks"), [("single", 1), ("ddp", 2), ("fsdp", 2), ("zero1", 2), ("zero3", 2)])
def test_it_changes_no_bit_under_any_strategy(pool: Pool, strategy: str, ranks: int, model: str) -> None:
    without = trained(pool, ranks, model, f"dist.strategy={strategy}")
    for every in ("blocks", "2"):
        found = trained(pool, ranks, model, f"dist.strategy={strategy}", f"train.activation_checkpointing={every}")
        assert found[0] == without[0] and cases.differences(found, without)["bitwise"], every


@pytest.mark.parametrize(
    "how",
    [
        ["dist.sync_bn=all"],
        ["dist.sync_bn=2"],
        ["dist.reduce=exact"],
        ["dist.precision=bf16"],
        ["dist.reduce=exact", "dist.sync_bn=all"],
        ["dist.reduce=exact", "dist.sync_bn=2"],
        ["dist.reduce=exact", "dist.sync_bn=all", "dist.precision=bf16"],
    ],
)
def test_it_changes_no_bit_with_synchronised_statistics_exact_sums_or_half_precision(pool: Pool, how: list[str]) -> None:
    ranks = 3 if "dist.sync_bn=2" in how else 2  # then a pass of one rank has no partner in some of its passes
    without = trained(pool, ranks, "cnn+dropout", *how)
    found = trained(pool, ranks, "cnn+dropout", *how, "train.activation_checkpointing=blocks")
    assert found[0] == without[0] and cases.differences(found, without)["bitwise"]


@pytest.mark.parametrize("ranks", [1, 3])
def test_exact_sums_with_synchronised_statistics_are_the_same_bits_on_any_number_of_ranks(pool: Pool, ranks: int) -> None:
    how = ["dist.reduce=exact", "dist.sync_bn=all"]
    without = trained(pool, 2, "cnn+dropout", *how)
    found = trained(pool, ranks, "cnn+dropout", *how, "train.activation_checkpointing=blocks")
    assert found[0] == without[0] and cases.differences(found, without)["bitwise"]


class Counting(nn.Module):
    """Counts its forwards, in training and in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 4), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        found: torch.Tensor = self.layer(x).relu()
        return found


@pytest.mark.parametrize(("every", "calls"), [("off", [1, 1, 1, 1]), ("blocks", [2, 2, 2, 2]), ("3", [2, 1, 1, 2])])
def test_blocks_are_computed_twice_in_training_and_once_in_an_evaluation(every: str, calls: list[int]) -> None:
    model = nn.Sequential(*[Counting() for _ in range(4)])
    activation_checkpointing.apply(model, load([DIGITS], [f"train.activation_checkpointing={every}"]))
    x = torch.ones(2, 4, requires_grad=True)
    model(x).sum().backward()
    assert [block.calls for block in model] == calls
    model.eval()(x)
    assert [block.calls for block in model] == [number + 1 for number in calls]
    assert all(isinstance(block, Counting) and type(block).__name__ == "Counting" for block in model)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dist.compile=true"], "dist.compile and train.activation_checkpointing"),
    ],
)
def test_what_it_cannot_be_used_with_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load([DIGITS], ["train.activation_checkpointing=blocks", *overrides])


class Remembered(nn.Module):
    """A block that remembers, weakly, what it computes before its BatchNorm."""

    made: ClassVar[list[weakref.ref[torch.Tensor]]] = []

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        self.made.append(weakref.ref(x))
        return torch.relu_(self.norm(x))


class TwoBlocks(nn.Module):
    block_names = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = Remembered(2), Remembered(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.second(self.first(x)).mean((2, 3)))
        return found


def kept_and_made(world: World, settings: RunConfig) -> tuple[int, int]:
    """How many of the activations before BatchNorm are there after the forwards, and how many a step makes in all."""
    engine = engine_for(world, settings, TwoBlocks)
    Remembered.made.clear()
    batch = [cases.micro_batch(0, number) for number in range(engine.mine.first, engine.mine.last)]
    kept = 0
    for own in engine.micro_batches(0, batch, [{"labels": cases.weights(b)["labels"]} for b in batch]):
        total = engine.losses(losses, own)
        kept += sum(made() is not None for made in Remembered.made)
        engine.backward(total)
    engine.step()
    return kept, len(Remembered.made)


def test_exact_statistics_need_no_activation_that_a_block_dropped(pool: Pool) -> None:
    """In lockstep: the joint backward of the four micro-batches has each of them computed again, once."""
    settings = cases.config(cases.RECIPE, 4, "dist.reduce=exact", "dist.sync_bn=all")
    dropping = cases.config(cases.RECIPE, 4, "dist.reduce=exact", "dist.sync_bn=all", "train.activation_checkpointing=blocks")
    assert pool.run(1, kept_and_made, settings)[0] == (8, 8)
    assert pool.run(1, kept_and_made, dropping)[0] == (0, 16)
