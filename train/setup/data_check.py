"""The data check before the first step, shared by all ranks; and the count of samples that training skipped."""

from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset, Split
from phalanx.data.inspect.check import as_json, check_part, judge, merged
from phalanx.data.inspect.enlarging import enlarged, made_small
from phalanx.data.inspect.nothing_to_learn import nothing_in_validation, refuse_nothing
from phalanx.data.skip_unreadable import SkipUnreadable
from phalanx.dist import heartbeat
from phalanx.dist.comm.collectives import gather_json, run_and_agree
from phalanx.dist.comm.process_group import World
from phalanx.train.setup.mask_check import check_masks

_NAMED = 10  # files named in an event


def check_data(config: RunConfig, training: Dataset, validation: Dataset, world: World, resuming: bool) -> list[str]:
    """Checks both splits as set by `data.check`; quickly on a resume, whose data has been checked.

    All ranks call together.

    Returns:
        The problems of samples that training skips, and warnings about the data.

    Raises:
        UserError: on every rank, if a sample cannot be used, or there is nothing to learn.
    """
    settings = config.data.model_copy(update={"check": "quick"}) if resuming else config.data
    splits: tuple[tuple[Split, Dataset], ...] = (("train", training), ("val", validation))
    rank, ranks = world.ranks.rank, world.ranks.world
    refuse_nothing(training)
    said = [] if resuming else nothing_in_validation(validation)
    for split, dataset in splits:
        progress = f"phalanx: {split}" if world.ranks.is_main else None

        def found(dataset: Dataset = dataset, progress: str | None = progress) -> list[dict[str, object]]:
            return as_json(check_part(dataset, settings, rank, ranks, lambda: heartbeat.beat("build"), progress))

        problems = merged(gather_json(world, run_and_agree(world, found)))
        said += judge(problems, dataset, settings, split)
        said += [] if resuming else dataset_info.notes(dataset)
    if not resuming and dataset_info.kind(training) == "segmentation":
        for split, dataset in splits:
            said += check_masks(config, dataset, split, world)
        said += run_and_agree(world, lambda: enlarged(training, settings))
    if not resuming and dataset_info.kind(training) != "regression":
        said += run_and_agree(world, lambda: made_small(training, settings))
    return list(dict.fromkeys(said))  # both splits may have the same warnings


class SkippedSamples:
    """The training samples that could not be read, over all ranks."""

    def __init__(self, training: Dataset, world: World):
        self._training, self._world, self._known = training, world, 0

    def news(self) -> dict[str, object] | None:
        """Their number and their first files; None without new ones. All ranks call together."""
        if not isinstance(self._training, SkipUnreadable):
            return None
        met = sorted({number for numbers in gather_json(self._world, self._training.met()) for number in numbers})
        if len(met) == self._known:
            return None
        self._known = len(met)
        return {"count": len(met), "files": [dataset_info.path(self._training, number) for number in met[:_NAMED]]}
