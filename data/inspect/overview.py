"""An overview of a split and of the network's inputs: figures, a histogram of classes, and a contact sheet."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image

from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset, Split
from phalanx.data.inspect.sheet import sheet, tiles
from phalanx.data.loading import order
from phalanx.data.loading.loader import EvaluationLoader, Loader, Samples, loading
from phalanx.data.transforms.batchwise import batchwise
from phalanx.data.transforms.fit import seen_size
from phalanx.data.transforms.mosaic_loading import mosaics
from phalanx.data.transforms.pipeline import Pipeline, Statistics, pipeline
from phalanx.dist.microbatches.sampler import Draw, Share

_COUNTED = {"classification": "images", "multilabel": "images", "segmentation": "pixels", "detection": "boxes"}
_BAR, _LISTED = 40, 50
_TIMED = 64


@dataclass(frozen=True)
class Overview:
    """An overview of a split.

    Attributes:
        name, split: of the dataset.
        kind: what a sample holds.
        samples, channels: their numbers.
        smallest, largest: height and width of the images that were checked, by area.
        seen: height and width of the network's input.
        mean, std: the normalisation of pixels between 0 and 1.
        load_ms, transform_ms: of one sample in one process, the median.
        classes, counts: names, and the number of each; None if unknown.
        picture: the contact sheet.
    """

    name: str
    split: Split
    kind: str
    samples: int
    channels: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    seen: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    load_ms: float
    transform_ms: float
    classes: tuple[str, ...]
    counts: list[int] | None
    picture: Image

    def to_json(self) -> dict[str, Any]:
        """All but the picture."""
        return {name: value for name, value in vars(self).items() if name != "picture"}

    def lines(self) -> list[str]:
        """For a terminal."""
        numbers = [", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std)]
        found = [
            f"{self.name}, {self.split}: {_counted(self.samples, 'sample')} of {_counted(len(self.classes), 'class')}, "
            f"for {self.kind}",
            f"images     {_counted(self.channels, 'channel')}, {self._sizes()}; the network sees {_shown(self.seen)}",
            f"normalised mean {numbers[0]}; deviation {numbers[1]}",
            f"time       {self.load_ms + self.transform_ms:.2f} ms per sample in one process: "
            f"{self.load_ms:.2f} to load, {self.transform_ms:.2f} to transform",
        ]
        return [*found, "", *self._histogram()]

    def _sizes(self) -> str:
        if self.smallest == self.largest:
            return f"{_shown(self.smallest)} pixels"
        return f"{_shown(self.smallest)} to {_shown(self.largest)} pixels (of the first {min(self.samples, _TIMED)})"

    def _histogram(self) -> list[str]:
        """One line per class: of very many, the most and the least frequent."""
        if self.counts is None:
            return [f"The dataset does not report how many {_COUNTED[self.kind]} each class has."]
        rows = list(zip(self.classes, self.counts, strict=True))
        left_out = len(rows) - _LISTED
        if left_out > 0:
            rows.sort(key=lambda row: -row[1])
            rows = rows[: _LISTED // 2] + rows[-(_LISTED // 2) :]
        most, total = max(1, *self.counts), max(1, sum(self.counts))
        name_width = min(32, max(len(name) for name, _ in rows))
        count_width = max(len(f"{count:,}") for _, count in rows)
        found = [f"{_COUNTED[self.kind]} of each class"]
        for place, (name, count) in enumerate(rows):
            if left_out > 0 and place == _LISTED // 2:
                found.append(f"... {left_out:,} classes between them ...")
            short = name if len(name) <= name_width else name[: name_width - 1] + "…"
            bar = "█" * round(_BAR * count / most) or ("▏" if count else "")
            found.append(f"  {short:{name_width}}  {count:{count_width},}  {count / total:6.1%}  {bar}".rstrip())
        return found


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}{'es' if noun.endswith('s') else 's'}"


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def overview(config: RunConfig, dataset: Dataset, split: Split, count: int, statistics: Statistics | None = None) -> Overview:
    """Inspects a split.

    Args:
        count: samples to show: of the training split the first of the run, augmented and mixed.
        statistics: of pretrained weights, see `pipeline`.

    Raises:
        UserError: if a sample cannot be read, or the augmentation does not fit the data.
    """
    seen = pipeline(config.data, dataset, split, statistics)
    samples = Samples(dataset, seen, config.seed, mosaics(config, dataset, seen) if split == "train" else None)
    sizes, load_ms, transform_ms = _timed(samples, len(dataset))
    kind, counts = dataset_info.kind(dataset), dataset_info.class_counts(dataset)
    return Overview(
        name=config.data.name,
        split=split,
        kind=kind,
        samples=len(dataset),
        channels=dataset.channels,
        smallest=sizes[0],
        largest=sizes[-1],
        seen=seen_size(config.data),
        mean=tuple(seen.mean),
        std=tuple(seen.std),
        load_ms=load_ms,
        transform_ms=transform_ms,
        classes=tuple(dataset.classes),
        counts=counts,
        picture=_picture(config, samples, seen, split, count),
    )


def _timed(samples: Samples, count: int) -> tuple[list[tuple[int, int]], float, float]:
    """Sizes of the first images, by area; median milliseconds to load and to transform one."""
    sizes, waited, transforming = [], [], []
    for number in range(min(count, _TIMED)):
        with loading():
            start = time.perf_counter()
            stored = samples.stored(Draw(0, number))
            loaded = time.perf_counter()
            samples.transformed(stored)
            transforming.append(1000 * (time.perf_counter() - loaded))
        waited.append(1000 * (loaded - start))
        height, width = stored["image"].shape[-2:]
        sizes.append((int(height), int(width)))
    sizes.sort(key=lambda size: (size[0] * size[1], size))
    return sizes, _median(waited), _median(transforming)


def _median(values: Sequence[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).median().item()


def _picture(config: RunConfig, samples: Samples, seen: Pipeline, split: Split, count: int) -> Image:
    dataset = samples.dataset
    count = min(count, len(dataset))
    size = config.train.micro_batch
    batches: list[dict[str, Any]] = []
    if split == "train":
        whole = Share(0, config.micro_batches, config.micro_batches)
        loader = Loader(samples, order.stream(config, dataset), whole, 0, False, batchwise(config, dataset))
        for batch in loader.from_step(0, -(-count // config.train.global_batch)):
            batches += batch.micro_batches
    else:
        batches += [batch for _, batch in EvaluationLoader(samples, count, size, 0, 1, workers=0)]
    shown = [tile for batch in batches for tile in tiles(batch, seen, dataset.classes)][:count]
    first = f"the first {count} samples of training" if split == "train" else f"{count} of {len(dataset):,} samples"
    steps = augmentation(config) if split == "train" else ""
    first_colour = {"segmentation": 0, "detection": 1}.get(dataset_info.kind(dataset))
    legend = [] if first_colour is None else list(enumerate(dataset.classes, first_colour))
    return sheet(shown, f"{config.data.name}, {split}", first + (f" · {steps}" if steps else ""), legend[:_LISTED])


def augmentation(config: RunConfig) -> str:
    """The enabled augmentations, as text."""
    augment, plain = config.data.augment, type(config.data.augment)()
    changed = {name: value for name, value in augment.model_dump().items() if value != getattr(plain, name)}
    return ", ".join(f"{name} {_value(value)}" for name, value in changed.items()) or "no augmentation"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):  # of a choice, or of a range
        return (" or " if isinstance(value, list) else " to ").join(f"{part:g}" for part in value)
    return f"{value:g}"
