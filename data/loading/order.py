"""The order of training: a recipe's stream of samples."""

import numpy
from numpy.typing import NDArray

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.dist.microbatches.grouped_sampler import GroupedStream
from phalanx.dist.microbatches.repeated_sampler import RepeatedStream
from phalanx.dist.microbatches.sampler import Stream


def stream(config: RunConfig, dataset: Dataset) -> Stream:
    """The endless stream of samples; with `data.aspect_groups`, of micro-batches whose images are of about one aspect; with
    `data.repeats`, of several copies of each sample in a step.

    Raises:
        UserError: if such groups do not fit the data.
    """
    batch = config.train.global_batch, config.train.micro_batch
    if config.data.repeats > 1:
        return RepeatedStream(len(dataset), config.seed, *batch, repeats=config.data.repeats)
    if not config.data.aspect_groups:
        return Stream(len(dataset), config.seed, *batch)
    if config.data.fit != "short_side":
        raise UserError(
            f"data.aspect_groups is for images in their own aspect, and data.fit={config.data.fit} gives all the same size. "
            "Set data.fit=short_side, or aspect_groups=false.",
            shared=True,
        )
    sizes = dataset_info.sizes(dataset)
    if sizes is None:
        raise UserError(
            f"data.aspect_groups needs the height and width of every image, which data.name={config.data.name} lacks. "
            "Set it to false.",
            shared=True,
        )
    return GroupedStream(len(dataset), config.seed, *batch, groups=_of_one_aspect(sizes, config.data.aspect_bins))


def _of_one_aspect(sizes: NDArray[numpy.int32], bins: int) -> tuple[NDArray[numpy.int64], ...]:
    """The samples of each group: those wider than high, and the others; with bins, by their width over height.

    With bins the edges are those of torchvision's `create_aspect_ratio_groups`: 2 to the power of -1, ..., 1.
    """
    if not bins:
        wide = sizes[:, 1] >= sizes[:, 0]
        return numpy.flatnonzero(wide), numpy.flatnonzero(~wide)
    groups = numpy.digitize(sizes[:, 1] / sizes[:, 0], 2.0 ** numpy.linspace(-1, 1, 2 * bins + 1))
    return tuple(numpy.flatnonzero(groups == group) for group in numpy.unique(groups))
