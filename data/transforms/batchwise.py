"""Training transforms of micro-batches: MixUp, CutMix, copy-paste, multi-scale."""

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.data.loading.loader import Batchwise, MicroBatch
from phalanx.data.transforms.copy_paste import CopyPaste
from phalanx.data.transforms.fit import seen_size
from phalanx.data.transforms.mixing import mixing
from phalanx.data.transforms.multi_scale import MultiScale


def batchwise(config: RunConfig, dataset: Dataset) -> Batchwise | None:
    """The recipe's transforms in sequence; None if there are none.

    Raises:
        UserError: if one does not fit the data.
    """
    steps = [step for step in (mixing(config, dataset), _copy_paste(config, dataset), _multi_scale(config, dataset)) if step]
    if not steps:
        return None

    def apply_all(step: int, batch: MicroBatch) -> MicroBatch:
        for change in steps:
            batch = change(step, batch)
        return batch

    return apply_all


def _copy_paste(config: RunConfig, dataset: Dataset) -> CopyPaste | None:
    probability = config.data.augment.copy_paste
    if not probability:
        return None
    if dataset_info.kind(dataset) != "detection" or not dataset_info.has_masks(dataset):
        raise UserError(
            "data.augment.copy_paste cuts objects out by their masks, which this data does not have. Set it to 0.", True
        )
    if config.data.fit == "short_side":
        raise UserError("data.augment.copy_paste needs images of one size. Set data.fit=pad, or copy_paste=0.", True)
    if config.train.micro_batch < 2:
        raise UserError(
            "data.augment.copy_paste takes objects of another sample of the micro-batch. Set train.micro_batch=2.", True
        )
    return CopyPaste(probability, config.seed)


def _multi_scale(config: RunConfig, dataset: Dataset) -> MultiScale | None:
    sizes = config.data.augment.sizes
    if sizes is None:
        return None
    if dataset_info.kind(dataset) != "detection":
        raise UserError(
            f"data.augment.sizes is for detection, and this data is for {dataset_info.kind(dataset)}. Remove it.", True
        )
    augment = config.data.augment
    return MultiScale(sizes, min(seen_size(config.data)), config.seed, augment.sizes_every, config.data.antialias)
