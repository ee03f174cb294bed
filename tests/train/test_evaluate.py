"""Evaluation on real ranks."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from benchmarks.support.rank_pool import Pool
from phalanx.configs.load import load
from phalanx.data.loading.loader import EvaluationLoader, Samples
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.comm.process_group import World
from phalanx.train.evaluation.evaluate import evaluate, measure
from phalanx.train.setup.build import build_distributed, build_local
from phalanx.train.tasks import DataInfo
from phalanx.train.tasks.several_labels import SeveralLabels
from tests.support.running import DIGITS

SETTINGS = ["train.micro_batch=2", "train.global_batch=8"]


def evaluated(world: World) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and details of seven samples, in four batches, of a network with weights from the seed."""
    config = load([DIGITS], SETTINGS)
    parts = build_distributed(config, build_local(config), world)
    loader = seven(world)
    details = parts.task.details(measure(parts.engine, parts.task, loader))  # type: ignore[attr-defined]
    return evaluate(parts.engine, parts.task, loader), details


def seven(world: World) -> EvaluationLoader:
    config = load([DIGITS], SETTINGS)
    validation = open_split(config.data, "val", config.seed)
    samples = Samples(Subset(validation, range(7)), pipeline(config.data, validation, "val"), config.seed)  # type: ignore[arg-type]
    return EvaluationLoader(samples, 7, 2, world.ranks.rank, world.ranks.world, workers=0)


def test_seven_samples_on_four_ranks_give_one_process_s_metrics_to_the_last_bit(pool: Pool) -> None:
    ((alone, details),) = pool.run(1, evaluated)
    assert list(alone) == ["loss", "top1", "top5", "top1_mean_class", "calibration_error"] and alone["loss"] > 0
    assert (7 * alone["top1"]) == pytest.approx(round(7 * alone["top1"]))
    assert sum(map(sum, details["confusion"])) == 7 == sum(row["samples"] for row in details["per_class"])
    for ranks in (2, 3, 4):
        assert pool.run(ranks, evaluated) == [(alone, details)] * ranks


class Digit(SeveralLabels):
    """Digits as several labels: which digit, and whether it is odd; on every third sample that is not known."""

    def measure(self, model: nn.Module, batch: Any) -> Any:
        digit = batch["target"]
        labels = torch.zeros(len(digit), 11).scatter_(1, digit.unsqueeze(1), 1.0)
        labels[:, 10] = torch.where(batch["id"] % 3 == 0, -1.0, (digit % 2).float())
        return super().measure(model, batch | {"target": labels})


def several(world: World) -> tuple[dict[str, float], list[int]]:
    config = load([DIGITS], [*SETTINGS, "model.num_classes=11", "loss.name=bce"])
    parts = build_distributed(config, build_local(config), world)
    task = Digit(config, DataInfo((*"0123456789", "odd"), 1, "multilabel", 7))
    sums = measure(parts.engine, task, seven(world))
    digits = sums["scores"][:, 11:21].argmax(dim=1).tolist()
    return task.metrics(sums), digits


def test_rows_stand_in_the_order_of_the_samples_on_any_number_of_ranks(pool: Pool) -> None:
    ((metrics, digits),) = pool.run(1, several)
    validation = open_split(load([DIGITS], []).data, "val", 0)
    assert digits == [validation[i]["target"] for i in range(7)]
    assert 0 < metrics["map"] <= 1 and metrics["loss"] > 0 and 0 <= metrics["accuracy"] <= 1
    for ranks in (2, 4):
        assert pool.run(ranks, several) == [(metrics, digits)] * ranks
