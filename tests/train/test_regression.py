"""Regression: torch's own means as sums and weights, metrics by hand, and a table that a line is fitted to."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.models.regression_losses import RegressionLoss
from phalanx.train.tasks import DataInfo
from phalanx.train.tasks.regression import Regression
from tests.support.running import RESNET18, assert_bitwise, lines, phalanx, ranks

TABLE = """
import torch
from torch import nn


class Table:
    def __init__(self, root, split, rows=256):
        generator = torch.Generator().manual_seed(0 if split == "train" else 1)
        self.x = torch.randn(rows, 3, generator=generator)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5]) + 3.0

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return {"input": self.x[i], "target": self.y[i]}


class Line(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.line = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.line(x)
"""


def task(*overrides: str) -> Regression:
    config = load([RESNET18], ["task.name=regression", "loss.name=mse", *overrides])
    return Regression(config, DataInfo((), 0, "regression", 8, numbers=1))


class Given(nn.Module):
    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Any) -> Any:
        return self.output


# -- losses


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("mse", F.mse_loss),
        ("l1", F.l1_loss),
        ("smooth_l1", lambda x, t: F.smooth_l1_loss(x, t, beta=0.5)),
        ("huber", lambda x, t: F.huber_loss(x, t, delta=0.5)),
        ("kl", lambda x, t: F.kl_div(x.log_softmax(1), t, reduction="batchmean")),
        ("hinge", lambda x, t: (1 - t * x).clamp(min=0).mean()),
    ],
)
def test_the_sum_over_its_weight_is_torch_s_mean(name: Any, theirs: Any) -> None:
    output, target = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    target = target.softmax(1) if name == "kl" else target.sign() if name == "hinge" else target
    loss = RegressionLoss(name, threshold=0.5)
    torch.testing.assert_close(loss.total(output, target) / loss.weight(target), theirs(output, target))


def test_unknown_numbers_do_not_count() -> None:
    output, target = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, 3, dtype=torch.float64)
    known = target[:3].clone()
    target[3] = torch.nan
    loss = RegressionLoss("mse")
    assert loss.weight(target) == 9
    total = loss.total(output, target)
    torch.testing.assert_close(total, (output[:3] - known).square().sum())
    total.backward()
    assert output.grad is not None and output.grad.isfinite().all() and not output.grad[3].any()


def test_log_probabilities_of_integers() -> None:
    output, target = torch.randn(5, 3, 2).log_softmax(1), torch.randint(0, 3, (5, 2))
    loss = RegressionLoss("nll")
    torch.testing.assert_close((loss.total(output, target) / loss.weight(target)).float(), F.nll_loss(output, target))
    target[0] = -1
    assert loss.weight(target) == 8


# -- the task


def test_metrics_are_those_of_the_whole_split() -> None:
    target = torch.tensor([1.0, 2.0, 4.0, torch.nan])
    output = torch.tensor([[1.5], [2.0], [3.0], [0.0]])
    asked = task()
    sums = asked.measure(Given(output), {"input": torch.zeros(4, 1), "target": target})
    found = asked.metrics({name: value.item() if isinstance(value, Tensor) else value for name, value in sums.items()})
    assert found["mae"] == pytest.approx(0.5) and found["rmse"] == pytest.approx((1.25 / 3) ** 0.5)
    assert found["loss"] == pytest.approx(1.25 / 3) and found["r2"] == pytest.approx(1 - 1.25 / (14 / 3))


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (torch.zeros(4, 2), "a tensor [4, 2]"),
        ({"features": torch.zeros(4)}, "a dictionary (features: a tensor [4])"),
        (1.0, "a float"),
    ],
)
def test_an_output_of_another_shape_is_said(output: Any, shown: str) -> None:
    with pytest.raises(UserError) as refused:
        task().losses(Given(output), {"input": torch.zeros(4, 1), "target": torch.zeros(4)})
    assert f"for 4 samples the network returned {shown}" in str(refused.value) and "needs a tensor [4]" in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.name=regression", "loss.name=bce"], "regression takes mse, l1, smooth_l1"),
        (["task.name=regression", "loss.name=mse", "loss.label_smoothing=0.1"], "is not for task.name=regression"),
        (["loss.name=huber"], "loss.name=huber needs task.name=regression"),
        (["task.name=segmentation", "loss.name=hinge"], "segmentation takes"),
    ],
)
def test_losses_that_do_not_go_with_the_task_are_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        load([RESNET18], overrides)
    assert said in str(refused.value)


def test_a_line_is_fitted_to_a_table_with_the_same_bits_on_one_rank_and_on_two(tmp_path: Path) -> None:
    (tmp_path / "table.py").write_text(TABLE)
    recipe = [RESNET18, "data.name=./table.py:Table", "model.name=./table.py:Line", "task.name=regression", "loss.name=huber"]
    recipe += ["optim.lr=0.3", "optim.weight_decay=0", "train.steps=40", "train.global_batch=64", "train.micro_batch=16"]
    recipe += ["data.workers=0", "dist.reduce=exact", "loss.threshold=2.0", "data.augment.shift=0"]
    phalanx("train", *recipe, "name=one", cwd=tmp_path)
    ranks(2, *recipe, "name=two", cwd=tmp_path)
    assert_bitwise(tmp_path / "runs/one", tmp_path / "runs/two")
    assert lines(tmp_path / "runs/one/metrics.jsonl")[-1]["val/r2"] > 0.95
