"""What a folder's data is, as far as a recipe needs to know: classes, sizes, channels, what is missing."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, UnidentifiedImageError

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.data.files.class_names import read_class_names
from phalanx.data.files.ignored_class import not_learnt
from phalanx.data.images.bands import ARRAY_SUFFIX
from phalanx.data.images.image_formats import known_formats
from phalanx.data.images.image_header import read_header
from phalanx.data.inspect.check import spread
from phalanx.data.inspect.folder_layout import Layout, layouts
from phalanx.data.open import open_split

_LOOKED_AT = 200  # images, evenly spread
_MASKS = 40  # masks whose pixels are counted
_GREY = ("1", "L", "I;16", "I;16B", "LA")


@dataclass(frozen=True)
class FoundData:
    """
    Attributes:
        layout: how `data.*` describes it.
        data: the section's keys, with `mode` and `ignore_index` where they differ from the defaults.
        kind: what a sample holds.
        train, val: numbers of samples.
        classes: their names.
        counts: images, pixels (of some masks) or boxes of each class in the training split; None if unknown.
        smallest, median, largest: height and width of images, by area.
        remarks: sentences on what was left out, is missing, or was chosen.
    """

    layout: Layout
    data: dict[str, Any]
    kind: str
    train: int
    val: int
    classes: tuple[str, ...]
    counts: tuple[int, ...] | None
    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    remarks: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"{self.layout.root}: {self.layout.format} ({self.layout.because}), for {self.layout.task}"
        held_out = ", a part of the training split" if self.layout.val is None else f" ({self.layout.val})"
        yield f"{self.train:,} samples to train on ({self.layout.train}), {self.val:,} to validate on{held_out}"
        sizes = " to ".join(dict.fromkeys(f"{width} x {height}" for height, width in (self.smallest, self.largest)))
        yield f"images of {sizes} pixels (width x height), {self.data.get('mode', 'rgb')}"
        shares = list(self.classes)
        if self.counts is not None and (total := sum(self.counts)):
            shares = [f"{name} {100 * count / total:.3g} %" for name, count in zip(self.classes, self.counts, strict=True)]
        yield f"{len(self.classes)} classes: {', '.join(shares[:20])}{', ...' if len(shares) > 20 else ''}"
        yield from self.remarks


def find(folder: Path, seed: int = 1) -> FoundData:
    """Looks at a folder.

    Raises:
        UserError: if its data is in no known layout, or cannot be opened, with the sentence of the first layout that fits.
    """
    first: UserError | None = None
    for layout in layouts(folder):
        try:
            return _described(layout, seed)
        except UserError as error:
            first = first or UserError(f"{folder} looks like data.name={layout.format} ({layout.because}), but: {error}")
    assert first is not None
    raise first


def _described(layout: Layout, seed: int) -> FoundData:
    keys: dict[str, Any] = dict(layout.keys())
    remarks: list[str] = []
    if layout.format == "masks" and (void := _void(layout.root)) is not None:
        keys["ignore_index"] = void
    training = open_split(DataConfig(**keys, image_size=32), "train", seed)
    paths = [Path(dataset_info.path(training, index)) for index in _some(training, _LOOKED_AT)]
    mode = _mode(paths)
    if mode != "rgb":
        keys["mode"] = mode
        training = open_split(DataConfig(**keys, image_size=32), "train", seed)
    validation = open_split(DataConfig(**keys, image_size=32), "val", seed)
    remarks += [*dataset_info.notes(training), *dataset_info.notes(validation)]
    counts = _counts(training)
    if counts is not None:
        without = [name for name, count in zip(training.classes, counts, strict=True) if not count]
        looked = (
            f"{min(_MASKS, len(training))} masks" if dataset_info.kind(training) == "segmentation" else "the training split"
        )
        if without:
            remarks.append(
                f"{looked}: there is nothing of the class{'es' if len(without) > 1 else ''} {', '.join(without[:10])}"
            )
    if (empty := _without_objects(training)) is not None:
        remarks.append(f"{empty} of the {len(training)} training images have no objects: they teach the background")
    sizes = _sizes(training, paths)
    return FoundData(
        layout=layout,
        data=keys,
        kind=dataset_info.kind(training),
        train=len(training),
        val=len(validation),
        classes=tuple(training.classes),
        counts=counts,
        smallest=min(sizes, key=lambda size: size[0] * size[1]),
        median=(round(statistics.median(height for height, _ in sizes)), round(statistics.median(width for _, width in sizes))),
        largest=max(sizes, key=lambda size: size[0] * size[1]),
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _void(root: Path) -> int | None:
    """The number of the class that stands for no class, unless it is the background, which may well be learnt."""
    names = read_class_names(root)
    number = None if names is None else not_learnt(names)
    return None if names is None or number is None or names[number].casefold() == "background" else number


def _some(dataset: Dataset, most: int) -> list[int]:
    return sorted(set(spread(numpy.arange(len(dataset)), most).tolist()))


def _mode(paths: list[Path]) -> str:
    """`data.mode` for such files: bands for arrays, grey if none of them has colours."""
    if paths and all(path.suffix.lower() == ARRAY_SUFFIX for path in paths):
        return "bands"
    return "grey" if paths and all(_is_grey(path) for path in paths) else "rgb"


def _is_grey(path: Path) -> bool:
    try:
        with Image.open(path, formats=known_formats()) as image:
            return image.mode in _GREY
    except (OSError, UnidentifiedImageError):
        return False


def _sizes(dataset: Dataset, paths: list[Path]) -> list[tuple[int, int]]:
    """Height and width of images: told by the data, else by the headers of files, else by reading one."""
    told = dataset_info.sizes(dataset)
    if told is not None:
        return [(int(height), int(width)) for height, width in told[: 10 * _LOOKED_AT]]
    found = [header.upright for path in paths if (header := read_header(path)) is not None]
    image: Any = dataset[0]["image"]
    return found or [(int(image.shape[-2]), int(image.shape[-1]))]


def _counts(dataset: Dataset) -> tuple[int, ...] | None:
    """Samples or boxes of each class; pixels of some masks."""
    if dataset_info.kind(dataset) != "segmentation":
        known = dataset_info.class_counts(dataset)
        return None if known is None else tuple(known)
    rows = [dataset_info.counts_of(dataset, index) for index in _some(dataset, _MASKS)]
    known_rows = [row for row in rows if row is not None]
    return tuple(numpy.sum(known_rows, axis=0).tolist()) if known_rows else None


def _without_objects(dataset: Dataset) -> int | None:
    """How many images of a detection set have no objects to learn; None if none, or unknown."""
    if dataset_info.kind(dataset) != "detection" or dataset_info.counts_of(dataset, 0) is None:
        return None
    empty = sum(not _any(dataset, index) for index in range(len(dataset)))
    return empty or None


def _any(dataset: Dataset, index: int) -> bool:
    counts = dataset_info.counts_of(dataset, index)
    return counts is not None and bool(counts.any())


def run_name(folder: Path) -> str:
    """A run's name from a folder's: letters, digits, dots and dashes."""
    kept = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in folder.resolve().name
    )
    return kept.strip("._-")[:100] or "data"
