"""An evaluation and a save are rehearsed before the first step, and leave no trace."""

import random
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from benchmarks import parity_cases as cases
from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.dist.checkpoint import rehearsal
from phalanx.dist.comm.process_group import World
from phalanx.train.evaluation.evaluate import rehearse
from tests.dist.test_ema import RAMPED, Bits, config, engine_on, held, run_steps, warm_up


class Draws:
    """A task that draws random numbers as it measures."""

    def measure(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        assert not model.training
        noise = torch.rand(()) + random.random() + numpy.random.random()
        return {"norm": model(batch["image"]).norm() + noise, "samples": torch.tensor(len(batch["image"]))}

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return {"norm": sums["norm"], "accuracy": 1.0}


LOADER: Any = SimpleNamespace(example=lambda: cases.micro_batch(0, 0))
TASK: Any = Draws()


def trained(world: World, settings: RunConfig, rehearsed: bool) -> tuple[Bits, list[float]]:
    """Two steps, and the random numbers that come next."""
    engine = engine_on(world, settings)
    warm_up(engine)
    torch.manual_seed(1)
    random.seed(1)
    numpy.random.seed(1)
    if rehearsed:
        assert rehearse(engine, TASK, LOADER, "val/accuracy") is None
    drawn = [torch.rand(()).item(), random.random(), numpy.random.random()]
    run_steps(engine, range(2))
    return held(engine), drawn


@pytest.mark.parametrize("strategy", ["ddp", "exact", "fsdp", "zero3"])
def test_a_rehearsed_evaluation_leaves_no_trace_in_the_training(pool: Pool, strategy: str) -> None:
    settings = config(strategy, RAMPED)
    assert pool.run(2, trained, settings, True) == pool.run(2, trained, settings, False)


def refusal(world: World, settings: RunConfig, best: str) -> str:
    engine = engine_on(world, settings)
    warm_up(engine)
    with pytest.raises(UserError) as refused:
        rehearse(engine, TASK, LOADER, best)
    return str(refused.value)


def test_a_best_that_the_task_does_not_measure_is_refused_before_the_first_step(pool: Pool) -> None:
    (said,) = set(pool.run(2, refusal, config("ddp"), "val/top1"))
    assert said == "checkpoint.best=val/top1: the task measures val/norm, val/accuracy. Set one of these."


def saving(world: World, folder: Path, to_come: int) -> str | None:
    try:
        rehearsal.rehearse(world, folder, engine_on(world, config("ddp")).entries(), 0, to_come)
    except UserError as refused:
        return str(refused)
    return None


def test_a_save_that_would_fail_is_refused_before_the_first_step(pool: Pool, tmp_path: Path) -> None:
    assert pool.run(2, saving, tmp_path, 0) == [None, None] and not list(tmp_path.iterdir())
    (said,) = set(pool.run(2, saving, tmp_path, 10**18))
    assert said is not None and "MB are free on the disk. Free space" in said and not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    (said,) = set(pool.run(2, saving, tmp_path / "file", 0))
    assert said is not None and "file: Not a directory" in said
