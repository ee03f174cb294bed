"""Evaluation on real ranks."""

import pytest
from torch.utils.data import Subset

from phalanx.configs.load import load
from phalanx.data.augment import pipeline
from phalanx.data.dataset import open_split
from phalanx.data.loader import EvaluationLoader, Samples
from phalanx.dist.process_group import World
from phalanx.train.build import assemble, gather
from phalanx.train.evaluate import evaluate
from tests.rank_pool import Pool
from tests.running import DIGITS


def evaluated(world: World) -> dict[str, float]:
    """The metrics of seven samples, in four batches, of a network with weights from the seed."""
    config = load([DIGITS], ["train.micro_batch=2", "train.global_batch=8"])
    parts = assemble(config, gather(config), world)
    validation = open_split(config.data, "val")
    samples = Samples(Subset(validation, range(7)), pipeline(config.data, validation, "val"), config.seed)  # type: ignore[arg-type]
    loader = EvaluationLoader(samples, 7, 2, world.ranks.rank, world.ranks.world, workers=0)
    return evaluate(parts.engine, parts.task, loader)


def test_seven_samples_on_four_ranks_give_one_process_s_metrics_to_the_last_bit(pool: Pool) -> None:
    (alone,) = pool.run(1, evaluated)
    assert alone.keys() == {"loss", "top1", "top5"} and alone["loss"] > 0
    assert (7 * alone["top1"]) == pytest.approx(round(7 * alone["top1"]))
    for ranks in (2, 3, 4):
        assert pool.run(ranks, evaluated) == [alone] * ranks
