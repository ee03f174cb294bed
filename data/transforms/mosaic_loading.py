"""Loads training samples as mosaics, and blends some of these with another (Zhang et al., mixup, arXiv:1710.09412)."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.data.transforms.fit import Fill
from phalanx.data.transforms.mosaic import Composer, Sample, blended
from phalanx.data.transforms.pipeline import Pipeline, learnt
from phalanx.dist.microbatches.randomness import key, seed_loading
from phalanx.dist.microbatches.sampler import Draw

PARTS = 4
OTHERS = "others"  # entry of a sample: int64 [7], ids of the other samples in it, -1 for none
_MOST_OTHERS = 2 * PARTS - 1
_BLEND = 32.0  # both parameters of the beta distribution of a blend's shares: nearly halves


def mosaics(config: RunConfig, dataset: Dataset, seen: Pipeline) -> "Mosaics | None":
    """The recipe's loading of samples as mosaics; None if disabled.

    Raises:
        UserError: if mosaics do not fit the data or another augmentation.
    """
    augment = config.data.augment
    if not augment.mosaic:
        return None
    if dataset_info.kind(dataset) != "detection":
        problem = f"data.augment.mosaic is for detection, and this data is for {dataset_info.kind(dataset)}"
        raise UserError(f"{problem}. Set it to 0.", shared=True)
    if config.data.fit == "short_side":
        raise UserError("data.augment.mosaic makes images of one size. Set data.fit=pad, or mosaic=0.", shared=True)
    for name in ("area", "scale", "shift"):
        if getattr(augment, name):
            problem = f"data.augment.{name} and mosaic both move the image; mosaic_scale scales a mosaic"
            raise UserError(f"{problem}. Remove data.augment.{name}.", shared=True)
    if config.data.resize_dtype == "float32":
        problem = "data.resize_dtype=float32 is for images alone, and mosaics resize 8 bits"
        raise UserError(f"{problem}. Set uint8, or data.augment.mosaic=0.", shared=True)
    for name in ("rotate", "shear", "single"):
        if augment.mosaic_shift is None and getattr(augment, f"mosaic_{name}"):
            problem = f"data.augment.mosaic_{name} is for a canvas of twice the size, which mosaic_shift makes"
            raise UserError(f"{problem}. Set data.augment.mosaic_shift=0 or more.", shared=True)
    return Mosaics(config, dataset, seen.fill)


class Mosaics:
    """Loads samples for training: some as mosaics, and some of these blended.

    Which samples are taken, and where they are put, is a function of (seed, epoch, sample id). Each has an entry `others`.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, fill: Fill):
        self._dataset, self._seed, self._augment = dataset, config.seed, config.data.augment
        self._composer = Composer(config.data, fill)

    def __call__(self, draw: Draw) -> Sample:
        draws = random.Random(key(self._seed, "mosaic", draw.epoch, draw.sample))
        ended = self._augment.mosaic_epochs is not None and draw.epoch >= self._augment.mosaic_epochs
        others: list[int] = []
        if ended or draws.random() >= self._augment.mosaic:
            made = dict(self._loaded(draw.epoch, draw.sample))
            if self._augment.mosaic_single:
                self._seeded("single", draw)
                made = self._composer.alone(made)
        else:
            others = [draws.randrange(len(self._dataset)) for _ in range(PARTS - 1)]
            made = self._composed(draw, [draw.sample, *others], "first")
            if draws.random() < self._augment.mosaic_mixup:
                made, more = self._blended(draw, draws, made)
                others += more
        return made | {OTHERS: torch.tensor(others + [-1] * (_MOST_OTHERS - len(others)))}

    def _blended(self, draw: Draw, draws: random.Random, made: Sample) -> tuple[Sample, list[int]]:
        """The mosaic blended with another, or with a single image that has objects, and the samples of these.

        As in YOLOX, a single image is not blended with a mosaic without objects, nor if none of its own is seen.
        """
        if self._augment.mosaic_mixup_scale is None:
            more = [draws.randrange(len(self._dataset)) for _ in range(PARTS)]
            return blended(made, self._composed(draw, more, "second"), draws.betavariate(_BLEND, _BLEND)), more
        if not len(made["labels"]):
            return made, []
        for _ in range(len(self._dataset)):  # the training data was checked to have objects
            other = draws.randrange(len(self._dataset))
            part = self._loaded(draw.epoch, other)
            if len(part["labels"]):
                break
        self._seeded("second", draw)
        single = self._composer.beside(dict(part), self._augment.mosaic_mixup_scale)
        return (blended(made, single, 0.5, cut_off=True), [other]) if len(single["labels"]) else (made, [])

    def _loaded(self, epoch: int, sample: int) -> Mapping[str, Any]:
        seed_loading(key(self._seed, "load", epoch, sample))
        return learnt(self._dataset[sample])

    def _composed(self, draw: Draw, samples: Sequence[int], which: str) -> Sample:
        parts = [dict(self._loaded(draw.epoch, sample)) for sample in samples]
        self._seeded(which, draw)
        return self._composer.mosaic(parts)

    def _seeded(self, which: str, draw: Draw) -> None:
        torch.default_generator.manual_seed(key(self._seed, "mosaic", which, draw.epoch, draw.sample))
