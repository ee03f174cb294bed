"""With activation checkpointing weights, optimizer and statistics are the same bits as without, under every strategy."""

import pytest
import torch
from torch import nn

from benchmarks import parity_cases as cases
from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.dist import activation_checkpointing
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


@pytest.mark.parametrize("how", [["dist.sync_bn=all"], ["dist.sync_bn=2"], ["dist.reduce=exact"], ["dist.precision=bf16"]])
def test_it_changes_no_bit_with_synchronised_statistics_exact_sums_or_half_precision(pool: Pool, how: list[str]) -> None:
    ranks = 3 if how == ["dist.sync_bn=2"] else 2  # then a pass of one rank has no partner in some of its passes
    without = trained(pool, ranks, "cnn+dropout", *how)
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
        (["dist.reduce=exact", "dist.sync_bn=all"], "train.activation_checkpointing computes a forward again in the backward"),
    ],
)
def test_what_it_cannot_be_used_with_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load([DIGITS], ["train.activation_checkpointing=blocks", *overrides])
