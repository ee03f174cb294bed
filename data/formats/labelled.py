"""Image files with one class or several labels each, for `image_folder` and `list`."""

from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data import fingerprints
from phalanx.data.bad_sample import unreadable
from phalanx.data.dataset_info import default_statistics
from phalanx.data.files.string_array import StringArray
from phalanx.data.images.modes import CHANNELS, Mode
from phalanx.data.images.reading import Reader


def mode_of_files(config: DataConfig) -> Mode | Literal["bands"]:
    """The channels with which image files are read."""
    return "rgb" if config.mode == "auto" else config.mode


class ImageFiles:
    """Image files.

    Args:
        folder: names are relative to it.

    Raises:
        UserError: with `data.mode=bands`, if the bands of the first image are floating point numbers and nothing tells their
            range.
    """

    def __init__(self, config: DataConfig, folder: Path, names: StringArray, classes: tuple[str, ...]):
        self.classes = classes
        self._mode = mode_of_files(config)
        self._folder, self._names, self._reader = folder, names, Reader(config.cache, config.max_pixels)
        self.channels = self._bands(config) if self._mode == "bands" else CHANNELS[self._mode]
        self.mean, self.std = default_statistics(self.channels)

    def _bands(self, config: DataConfig) -> int:
        """How many bands the first image has."""
        if not len(self._names):
            return 1
        first = self._reader.image(self.path(0), "bands")
        if first.is_floating_point() and (config.mean is None or config.std is None):
            raise UserError(
                f"{self.path(0)}: its bands are floating point numbers, whose range nothing tells. Set data.mean and data.std, "
                f"with {len(first)} numbers each."
            )
        return len(first)

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> str:
        return str(self._folder / self._names[index])

    def sample_names(self) -> StringArray:
        """The file of each sample, relative to the folder: independent of its location."""
        return self._names

    def files(self, index: int) -> tuple[str, ...]:
        """All files of a sample."""
        return (self.path(index),)

    def _image(self, index: int) -> Tensor:
        image = self._reader.image(self.path(index), self._mode)
        if len(image) != self.channels:
            raise unreadable(self.path(index), f"this image has {len(image)} bands, and the first one has {self.channels}")
        return image


class LabelledImages(ImageFiles):
    """Image files with a class each.

    Args:
        targets: int64 `[samples]`.
        notes: warnings.

    Raises:
        UserError: if there is only one class.
    """

    kind = "classification"

    def __init__(
        self,
        config: DataConfig,
        folder: Path,
        names: StringArray,
        classes: tuple[str, ...],
        targets: NDArray[numpy.int64],
        notes: tuple[str, ...] = (),
    ):
        super().__init__(config, folder, names, classes)
        self.notes = notes
        if len(classes) == 1:
            raise UserError(f"{folder}: all images are of one class, {classes[0]}. Add another, or there is nothing to learn.")
        self.labels = torch.from_numpy(targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self._image(index), "target": int(self.labels[index])}


class MultiLabelImages(ImageFiles):
    """Image files with any number of labels each.

    Args:
        labels: int32, the labels of all samples, concatenated.
        ends: int64 `[samples + 1]`: sample `i` has the labels from `ends[i]` to `ends[i + 1]`.
        looked: where labels were searched, for messages.
        notes: warnings.
    """

    kind = "multilabel"

    def __init__(
        self,
        config: DataConfig,
        folder: Path,
        names: StringArray,
        classes: tuple[str, ...],
        labels: NDArray[numpy.int64],
        ends: NDArray[numpy.int64],
        looked: str,
        notes: tuple[str, ...] = (),
    ):
        super().__init__(config, folder, names, classes)
        self._labels, self._ends, self.looked, self.notes = labels, ends, looked, notes

    def __getitem__(self, index: int) -> dict[str, Any]:
        target = torch.zeros(len(self.classes))
        target[torch.from_numpy(self._own(index))] = 1
        return {"image": self._image(index), "target": target}

    def _own(self, index: int) -> NDArray[numpy.int64]:
        return self._labels[self._ends[index] : self._ends[index + 1]]

    def counts_of(self, index: int) -> NDArray[numpy.int64]:
        """1 for each label of a sample, `[classes]`."""
        return numpy.bincount(self._own(index), minlength=len(self.classes))

    def fingerprints(self) -> NDArray[numpy.uint64]:
        """A number for the labels of each sample."""
        return fingerprints.of_labels(self.classes, self._labels, self._ends)

    def class_counts(self) -> list[int]:
        return numpy.bincount(self._labels, minlength=len(self.classes)).tolist()
