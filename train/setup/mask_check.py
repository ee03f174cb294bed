"""Masks without anything to learn are reported before the first step, by all ranks together."""

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset, Split
from phalanx.data.inspect.check import once_each, spread
from phalanx.data.inspect.uniform_masks import FIRST, MOST, look, merged, sentence
from phalanx.dist import heartbeat
from phalanx.dist.comm.collectives import gather_json, run_and_agree
from phalanx.dist.comm.process_group import World


def check_masks(config: RunConfig, dataset: Dataset, split: Split, world: World) -> list[str]:
    """Checks a few masks; if these hold a single class or none, also all others, shared by the ranks.

    Returns:
        A warning about a validation split, or about a part of a large training split.

    Raises:
        UserError: on every rank, if all masks of the training split hold nothing to learn.
    """
    dataset, numbers = once_each(dataset)
    most, rank, ranks = spread(numbers, MOST), world.ranks.rank, world.ranks.world
    known = dataset_info.ignored(dataset)
    ignored = config.data.ignore_index if known is None else known

    def beat() -> None:
        heartbeat.beat("build")

    if run_and_agree(world, lambda: look(dataset, spread(numbers, FIRST), ignored, beat)).of_several_classes():
        return []
    parts = gather_json(world, run_and_agree(world, lambda: look(dataset, most[rank::ranks], ignored, beat).to_json()))
    said = sentence(merged(parts), dataset, split, ignored, config.data.ignore_index)
    if said is not None and split == "train" and len(most) == len(numbers):
        raise UserError(said, shared=True)
    return [] if said is None else [said]
