"""Optional metadata of a dataset, such as class counts and image sizes, with defaults for datasets without it."""

from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from phalanx.data.dataset import Dataset, Kind
from phalanx.data.files.string_array import StringArray

if TYPE_CHECKING:
    from torch import Tensor

# Of ImageNet's training images: usual for pretrained weights, and close to most photographs.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def default_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, for unknown images, pixels between 0 and 1."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.5,) * channels, (0.25,) * channels


def kind(dataset: Dataset) -> Kind:
    """What a sample holds."""
    found: Kind = getattr(dataset, "kind", "classification")
    return found


def has_masks(dataset: Dataset) -> bool:
    """Whether each object of a sample has a mask."""
    found: bool = getattr(dataset, "has_masks", False)
    return found


def labels(dataset: Dataset) -> "Tensor | None":
    """The class of each sample, int64 `[samples]`; None if samples do not have one class each, or the dataset has no labels."""
    found: Tensor | None = getattr(dataset, "labels", None)
    return found


def class_counts(dataset: Dataset) -> list[int] | None:
    """Samples of each class; pixels for segmentation, which reads every mask; boxes for detection. None if unknown."""
    known = labels(dataset)
    if known is not None:
        return numpy.bincount(known.numpy(), minlength=len(dataset.classes)).tolist()
    if hasattr(dataset, "class_counts"):
        counts: list[int] = dataset.class_counts()
        return counts
    return None


def counts_of(dataset: Dataset, index: int) -> NDArray[numpy.int64] | None:
    """Pixels or boxes of each class in a sample, `[classes]`; None if unknown."""
    if not hasattr(dataset, "counts_of"):
        return None
    found: NDArray[numpy.int64] | None = dataset.counts_of(index)
    return found


def has_objects(dataset: Dataset, index: int) -> bool | None:
    """Whether a sample has an object at all, see `data.without_objects`; None if unknown."""
    if hasattr(dataset, "has_objects"):
        found: bool | None = dataset.has_objects(index)
        return found
    counts = counts_of(dataset, index)
    return None if counts is None else bool(counts.any())


def sizes(dataset: Dataset) -> NDArray[numpy.int32] | None:
    """Height and width of each image as it is stored, `[samples, 2]`; None if unknown without reading it."""
    found: NDArray[numpy.int32] | None = getattr(dataset, "sizes", None)
    return found


def notes(dataset: Dataset) -> tuple[str, ...]:
    """Messages about what was left out of the dataset."""
    found: tuple[str, ...] = getattr(dataset, "notes", ())
    return found


def ignored(dataset: Dataset) -> int | None:
    """The number, in masks, of ignored pixels; None if it is `data.ignore_index`."""
    found: int | None = getattr(dataset, "ignored", None)
    return found


def path(dataset: Dataset, index: int) -> str:
    """The file of a sample, or its number if the dataset has no files."""
    if hasattr(dataset, "path"):
        found: str = dataset.path(index)
        return found
    return f"sample {index}"


def sample_names(dataset: Dataset) -> StringArray | None:
    """The name of each sample, as in the dataset's folder or list; None if samples have no names."""
    found: Any = dataset.sample_names() if hasattr(dataset, "sample_names") else None
    return found if found is None or isinstance(found, StringArray) else StringArray.of(found)


def fingerprints(dataset: Dataset) -> NDArray[numpy.uint64] | None:
    """A number for the labels or objects of each sample, `[samples]`; None where that is not told without reading its files."""
    return dataset.fingerprints() if hasattr(dataset, "fingerprints") else None


def image_id(dataset: Dataset, index: int) -> int | str:
    """The dataset's own id of an image, or its number if it has none."""
    return dataset.image_id(index) if hasattr(dataset, "image_id") else index


def category_ids(dataset: Dataset) -> list[int | str]:
    """The dataset's own id of each class, or its number if it has none."""
    return list(getattr(dataset, "category_ids", None) or range(len(dataset.classes)))


class DatasetView:
    """A view of another dataset: forwards everything that a subclass does not change."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.classes, self.channels = tuple(dataset.classes), dataset.channels
        self.mean, self.std = tuple(dataset.mean), tuple(dataset.std)
        self.kind = kind(dataset)
        self.has_masks = has_masks(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> "dict[str, Any]":
        return self.dataset[index]

    @property
    def labels(self) -> "Tensor | None":
        return labels(self.dataset)

    @property
    def sizes(self) -> NDArray[numpy.int32] | None:
        return sizes(self.dataset)

    @property
    def notes(self) -> tuple[str, ...]:
        return notes(self.dataset)

    @property
    def ignored(self) -> int | None:
        return ignored(self.dataset)

    def class_counts(self) -> list[int] | None:
        return class_counts(self.dataset)

    def counts_of(self, index: int) -> NDArray[numpy.int64] | None:
        return counts_of(self.dataset, index)

    def has_objects(self, index: int) -> bool | None:
        return has_objects(self.dataset, index)

    def path(self, index: int) -> str:
        return path(self.dataset, index)

    @property
    def category_ids(self) -> list[int | str]:
        return category_ids(self.dataset)

    def sample_names(self) -> StringArray | None:
        return sample_names(self.dataset)

    def fingerprints(self) -> NDArray[numpy.uint64] | None:
        return fingerprints(self.dataset)

    def image_id(self, index: int) -> int | str:
        return image_id(self.dataset, index)
