"""The keys of `data`: where images come from, how they are split, and what is done to them."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from phalanx.configs.sections.section import REQUIRED, Int, Section, bookkeeping, experiment, hardware


def _size(value: Any) -> Any:
    """A side of a square, or height and width."""
    given = value if isinstance(value, list | tuple) else [value]
    if not given or not all(re.fullmatch(r"[1-9][0-9]{0,5}", str(side).strip()) for side in given) or len(given) > 2:
        raise ValueError("pixels: a whole number, or two, height and width, as [180, 240]")
    sides = tuple(int(side) for side in given)
    return sides[0] if len(sides) == 1 else sides


def _range(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1]:
        raise ValueError("two numbers above zero, the smaller first, as [0.5, 2.0]")
    return value


def _fold(value: Any) -> Any:
    parts = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", str(value).strip())
    if not parts or int(parts[1]) > int(parts[2]) or int(parts[2]) < 2:
        raise ValueError("which of how many, as 2/5")
    return f"{parts[1]}/{parts[2]}"


# The largest phones' photographs have 200 million; more is most often a file that claims a size to fill the memory.
MAX_PIXELS = 250_000_000

ImageSize = Annotated[int | tuple[int, int], BeforeValidator(_size)]
FloatRange = Annotated[tuple[float, float], AfterValidator(_range)]
Fold = Annotated[str, BeforeValidator(_fold)]


class AugmentConfig(Section):
    shift: Int = experiment(0, "random translation by up to so many pixels, the border filled with zeros", ge=0)
    flip: float = experiment(0.0, "probability of a horizontal flip", ge=0, le=1)
    vertical_flip: float = experiment(0.0, "probability of a vertical flip", ge=0, le=1)
    rotate: float = experiment(0.0, "random rotation by up to so many degrees, either way", ge=0, le=180)
    shear: float = experiment(0.0, "random shear by up to so many degrees, either way, along both sides", ge=0, lt=90)
    area: FloatRange | None = experiment(
        None, "random resized crop: shares of the image's area to choose from, as [0.08, 1.0] (arXiv:1409.4842)"
    )
    aspect: FloatRange = experiment((0.75, 4 / 3), "random resized crop: ratios of width to height to choose from")
    scale: FloatRange | None = experiment(
        None, "random scale: factors to choose from, as [0.5, 2.0], before a random crop of data.image_size, padded if need be"
    )
    brightness: float = experiment(0.0, "random factor of brightness: 1 plus or minus up to this", ge=0)
    contrast: float = experiment(0.0, "random factor of contrast: 1 plus or minus up to this", ge=0)
    saturation: float = experiment(0.0, "random factor of saturation: 1 plus or minus up to this", ge=0)
    hue: float = experiment(0.0, "random shift of hue by up to this share of the circle", ge=0, le=0.5)
    randaugment: Int = experiment(0, "RandAugment: operations an image (arXiv:1909.13719); for classification", ge=0)
    randaugment_magnitude: Int = experiment(9, "RandAugment: their strength, of 0 to 30", ge=0, le=30)
    trivialaugment: bool = experiment(
        False, "TrivialAugment: one operation an image, of any strength (arXiv:2103.10158); for classification"
    )
    erasing: float = experiment(0.0, "probability of random erasing (arXiv:1708.04896); for classification", ge=0, le=1)
    mixup: float = experiment(0.0, "MixUp: parameter of its beta distribution (arXiv:1710.09412); 0: off", ge=0)
    cutmix: float = experiment(0.0, "CutMix: parameter of its beta distribution (arXiv:1905.04899); 0: off", ge=0)
    copy_paste: float = experiment(
        0.0, "copy-paste: probability that a sample gets objects of another (arXiv:2012.07177); for detection", ge=0, le=1
    )
    mosaic: float = experiment(
        0.0, "mosaic: probability that a sample becomes one of four (arXiv:2004.10934); for detection", ge=0, le=1
    )
    mosaic_scale: FloatRange = experiment((0.5, 1.5), "mosaic: factors to choose from; at 1 an image fits the whole")
    mosaic_mixup: float = experiment(0.0, "mosaic: probability that it is blended with another", ge=0, le=1)
    mosaic_epochs: Int | None = experiment(None, "mosaic: only in the first so many epochs", ge=0)
    sizes: Annotated[list[Int], Field(min_length=1)] | None = experiment(
        None, "multi-scale: short sides to choose from at every step, as [320, 352, 384] (arXiv:1612.08242); for detection"
    )


class DataConfig(Section):
    name: str = experiment(
        REQUIRED,
        "the dataset: digits, fashion_mnist, mnist, cifar10, cifar100, image_folder, list, masks, voc, cityscapes, ade20k, "
        "coco, yolo, shapes, or your own as ./file.py:Class",
    )
    root: str | None = hardware(None, "folder that holds the dataset's files, where it needs any")
    options: dict[str, Any] = experiment({}, "keyword arguments for a dataset of your own, or for shapes, coco, voc")
    train_split: str = experiment("train", "the split to train on: a folder's or a file's name, for list a CSV file")
    val_split: str = experiment("val", "the split to validate on")
    val_fraction: float | None = experiment(
        None, "share of the training split that is held out to validate on, instead of val_split", gt=0, lt=1
    )
    fold: Fold | None = experiment(None, "cross-validation: which of how many parts to validate on, as 2/5")
    stratify: bool = experiment(True, "val_fraction and fold: keep the share of every class in each part")
    sampling: Literal["natural", "class_balanced"] = experiment(
        "natural",
        "class_balanced: an epoch repeats samples of rarer classes until every class has as many; for detection, images with "
        "objects of rare classes, by their repeat factors (arXiv:1908.03195)",
    )
    repeat_threshold: float = experiment(
        0.001, "class_balanced, detection: share of the images below which a class is rare", gt=0, le=1
    )
    aspect_groups: bool = experiment(
        False, "fit=short_side: micro-batches of images that are all wide or all high, so that less is padded"
    )
    ignore_index: Int = experiment(
        255, "number, in masks, of pixels that count for nothing; that of a class takes it out of the classes", ge=0
    )
    mode: Literal["auto", "grey", "rgb", "rgba"] = experiment(
        "auto", "channels of the image: as the dataset has them (files: rgb), or converted"
    )
    image_size: ImageSize = experiment(32, "what the network sees, in pixels: the side of a square, or [height, width]")
    fit: Literal["stretch", "crop", "pad", "short_side"] = experiment(
        "stretch",
        "how an image of another aspect becomes image_size: stretched; its middle, of the share crop_share; whole, padded; or, "
        "for detection, in its own aspect: image_size is [short side, longest side]",
    )
    crop_share: float = experiment(0.875, "fit=crop: side of the middle that is kept, as a share of the short side", gt=0, le=1)
    mean: list[float] | None = experiment(
        None, "of each channel, to normalise by, for pixels between 0 and 1; the dataset's own, else ImageNet's if not given"
    )
    std: list[float] | None = experiment(None, "of each channel, to normalise by")
    augment: AugmentConfig = Field(AugmentConfig(), description="random augmentation while training")
    on_error: Literal["fail", "skip"] = experiment(
        "fail", "an image that cannot be read while training: end, naming it; or use the next one instead, and count it"
    )
    max_pixels: Int = experiment(
        MAX_PIXELS, "the most pixels an image or a mask may have: a larger one counts as one that cannot be read", ge=1
    )
    changed: Literal["refuse", "accept"] = bookkeeping(
        "refuse",
        "a resume whose training samples, or the class of one, are no longer those that the run began with: refuse it, or "
        "accept them as they are now, so that some may come twice in this epoch, or not at all",
    )
    check: Literal["full", "quick"] = bookkeeping(
        "quick", "before the first step: names, counts and labels (quick), or every image and mask as well (full)"
    )
    cache: str | None = hardware(
        None, "folder for decoded images, shared by the ranks of a node, such as /dev/shm/NAME or a local disk; none if not set"
    )
    transform_on: Literal["workers", "device"] = hardware(
        "workers", "where images are augmented: in the loader processes, or on the rank's device"
    )
    workers: Int = hardware(2, "loader processes a rank; 0 loads in the training process", ge=0)
    ledger: bool = bookkeeping(False, "write the sample ids of every step to ledger/rank-N.jsonl")
