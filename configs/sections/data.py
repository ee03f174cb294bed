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
Interpolation = Literal["bilinear", "bicubic", "random"]
SizeRounding = Literal["nearest", "down", "bounds_down"]
FloatRange = Annotated[tuple[float, float], AfterValidator(_range)]
Fold = Annotated[str, BeforeValidator(_fold)]


class AugmentConfig(Section):
    shift: Int = experiment(0, "random translation by up to so many pixels, the border filled with zeros", ge=0)
    flip: float = experiment(0.0, "probability of a horizontal flip", ge=0, le=1)
    vertical_flip: float = experiment(0.0, "probability of a vertical flip", ge=0, le=1)
    rotate: float = experiment(0.0, "random rotation by up to so many degrees, either way", ge=0, le=180)
    shear: float = experiment(0.0, "random shear by up to so many degrees, either way, along both sides", ge=0, lt=90)
    area: FloatRange | None = experiment(
        None, "random resized crop: range of the share of the image's area, such as [0.08, 1.0] (arXiv:1409.4842)"
    )
    aspect: FloatRange = experiment((0.75, 4 / 3), "random resized crop: range of the ratio of width to height")
    scale: FloatRange | None = experiment(
        None, "random scale: range of factors, such as [0.5, 2.0], before a random crop of data.image_size, padded if necessary"
    )
    scale_of: Literal["fit", "short_side", "image"] = experiment(
        "fit",
        "random scale: what a factor of 1 means: the size at which data.fit shows all of the image; its short side as long as "
        "that of "
        "data.image_size; or its own size",
    )
    scale_longest: Int | None = experiment(
        None, "random scale, scale_of=short_side: pixels that the long side has at most at a factor of 1, such as 2048", ge=1
    )
    crop_most: float | None = experiment(
        None,
        "random scale: crops of which a class has this share or more, such as 0.75, are drawn again, at most ten times; for "
        "segmentation",
        gt=0,
        lt=1,
    )
    brightness: float = experiment(0.0, "random factor of brightness: 1 plus or minus up to this", ge=0)
    contrast: float = experiment(0.0, "random factor of contrast: 1 plus or minus up to this", ge=0)
    saturation: float = experiment(0.0, "random factor of saturation: 1 plus or minus up to this", ge=0)
    hue: float = experiment(0.0, "random shift of hue by up to this share of the circle", ge=0, le=0.5)
    colour: Literal["jitter", "hsv", "photometric"] = experiment(
        "jitter",
        "how brightness, contrast, saturation and hue change: jitter: as torchvision's ColorJitter; hsv: value, saturation and "
        "hue are multiplied, as in YOLOv5; photometric: each with a probability of one half, as in SSD (arXiv:1512.02325). The "
        "last two keep images of 8 bits at 8 bits after each step, as OpenCV does",
    )
    autoaugment: Literal["imagenet", "cifar10", "svhn"] | None = experiment(
        None, "AutoAugment: the policy found for one of these data sets (arXiv:1805.09501); for classification"
    )
    randaugment: Int = experiment(0, "RandAugment: operations per image (arXiv:1909.13719); for classification", ge=0)
    randaugment_magnitude: Int = experiment(9, "RandAugment: strength of the operations, 0 to 30", ge=0, le=30)
    own: list[str] = experiment(
        [],
        "transforms of your own, as ./file.py:function, each a function without arguments that makes a transform of "
        "torchvision.transforms.v2, or any function from a sample's dictionary of tensors to such a dictionary",
    )
    trivialaugment: bool = experiment(
        False, "TrivialAugment: one operation per image, of random strength (arXiv:2103.10158); for classification"
    )
    policy_interpolation: Literal["nearest", "bilinear", "bicubic"] = experiment(
        "nearest", "how AutoAugment, RandAugment and TrivialAugment interpolate when they rotate, shear and move an image"
    )
    timm: str | None = experiment(
        None,
        "timm's RandAugment, AutoAugment or AugMix by its specification, such as rand-m7-mstd0.5-inc1; for classification. "
        "Needs timm",
    )
    erasing: float = experiment(0.0, "probability of random erasing (arXiv:1708.04896); for classification", ge=0, le=1)
    mixup: float = experiment(0.0, "MixUp: parameter of its beta distribution (arXiv:1710.09412); 0: off", ge=0)
    cutmix: float = experiment(0.0, "CutMix: parameter of its beta distribution (arXiv:1905.04899); 0: off", ge=0)
    copy_paste: float = experiment(
        0.0, "copy-paste: probability that objects of another sample are pasted (arXiv:2012.07177); for detection", ge=0, le=1
    )
    mosaic: float = experiment(
        0.0, "mosaic: probability that four samples are combined into one (arXiv:2004.10934); for detection", ge=0, le=1
    )
    mosaic_scale: FloatRange = experiment((0.5, 1.5), "mosaic: range of scale factors; 1 fits an image to the full size")
    mosaic_shift: float | None = experiment(
        None,
        "mosaic: its images meet anywhere on a canvas of twice the size, as in YOLOv5, which is moved by up to this share of "
        "the size, such as 0.1; null: they meet between a quarter and three quarters of the result",
        ge=0,
        le=0.5,
    )
    mosaic_rotate: float = experiment(
        0.0, "mosaic: the canvas of mosaic_shift is rotated by up to this, in degrees", ge=0, le=180
    )
    mosaic_shear: float = experiment(
        0.0, "mosaic: the canvas of mosaic_shift is sheared by up to this, in degrees", ge=0, lt=45
    )
    mosaic_visible: float = experiment(
        0.1, "mosaic: boxes that keep less of their area are dropped, as in YOLOv5; 0.2 in YOLOX", ge=0, le=1
    )
    mosaic_longest: float | None = experiment(
        None, "mosaic: boxes that are more times as long as wide are dropped; 100 in YOLOv5, 20 in YOLOX; none if null", ge=1
    )
    mosaic_mixup: float = experiment(0.0, "mosaic: probability that it is blended with another", ge=0, le=1)
    mosaic_mixup_scale: FloatRange | None = experiment(
        None,
        "mosaic: it is blended, half and half, with one image of a scale from this range in place of a mosaic, as in YOLOX",
    )
    mosaic_single: bool = experiment(
        False, "mosaic: images that are in none are scaled, rotated, sheared and moved likewise, as in YOLOv8's last epochs"
    )
    mosaic_epochs: Int | None = experiment(None, "mosaic: use it only in the first so many epochs; in all if null", ge=0)
    smallest_object: float = experiment(
        0.0,
        "detection: objects whose shorter side has at most so many pixels are not learnt, unless all of an image are so small; "
        "such an image, or one without objects, is neither mirrored nor changed in its colours; 8 in YOLOX",
        ge=0,
    )
    most_objects: Int | None = experiment(
        None, "detection: objects that are learnt of an image at most, the first ones; 120 in YOLOX; all if null", ge=1
    )
    sizes: Annotated[list[Int], Field(min_length=1)] | None = experiment(
        None,
        "multi-scale: short sides to choose from at every step, such as [320, 352, 384] (arXiv:1612.08242); for detection",
    )
    sizes_every: Int = experiment(1, "multi-scale: steps between two choices", ge=1)


class DataConfig(Section):
    name: str = experiment(
        REQUIRED,
        "format of the dataset, such as image_folder, list, masks, coco, voc, yolo, cityscapes, mnist, cifar10 or digits "
        "(docs/datasets.md has all), or your own as ./file.py:Class",
    )
    root: str | None = hardware(None, "folder of the dataset's files, if it has any")
    options: dict[str, Any] = experiment({}, "keyword arguments for a dataset of your own, or for shapes, coco, voc")
    train_split: str = experiment("train", "the split to train on: the name of a folder or a file; for list, of a CSV file")
    val_split: str = experiment("val", "the split to validate on")
    val_fraction: float | None = experiment(
        None, "share of the training split that is held out for validation, instead of val_split", gt=0, lt=1
    )
    fold: Fold | None = experiment(None, "cross-validation: which of how many parts to validate on, such as 2/5")
    stratify: bool = experiment(True, "val_fraction and fold: keep the proportion of every class in each part")
    sampling: Literal["natural", "class_balanced"] = experiment(
        "natural",
        "class_balanced: an epoch repeats samples of rarer classes until all classes have equally many; for detection, images "
        "with objects of rare classes, by repeat factors (arXiv:1908.03195)",
    )
    repeat_threshold: float = experiment(
        0.001, "class_balanced, detection: share of the images below which a class is rare", gt=0, le=1
    )
    repeats: Int = experiment(
        1,
        "repeated augmentation: copies of each sample in a step, augmented differently, such as 3 (arXiv:1902.05509); a "
        "step has so many times fewer different samples",
        ge=1,
    )
    aspect_groups: bool = experiment(
        False, "fit=short_side: make micro-batches of images that are all wide or all high, so that less is padded"
    )
    aspect_bins: Int = experiment(
        0,
        "aspect_groups: groups for each factor of two in width over height, from 1/2 to 2, such as 3 in torchvision's "
        "reference; 0: two groups, wide and high",
        ge=0,
        le=16,
    )
    without_objects: Literal["keep", "leave_out"] = experiment(
        "keep",
        "detection: images without objects teach the background (keep), or are not trained on; leave_out also counts objects "
        "of at most a pixel's width or height as none, and crowds as objects, as torchvision's reference does",
    )
    ignore_index: Int = experiment(
        255, "value of mask pixels that are ignored; the number of a class removes it from the classes", ge=0
    )
    mode: Literal["auto", "grey", "rgb", "rgba", "bands"] = experiment(
        "auto",
        "channels of the image: those of the dataset (image files: rgb), or converted; bands: all that image files have, such "
        "as multispectral TIFF and .npy",
    )
    image_size: ImageSize = experiment(32, "input size of the network in pixels: the side of a square, or [height, width]")
    fit: Literal["stretch", "crop", "pad", "short_side"] = experiment(
        "stretch",
        "how an image of another aspect becomes image_size: stretched; its centre crop of crop_share; padded; or, for "
        "detection, in its own aspect: image_size is [short side, longest side]",
    )
    interpolation: Interpolation = experiment(
        "bilinear",
        "how images are resized; random: one of the two for each image while training, as timm does, and bicubic in evaluation",
    )
    antialias: bool = experiment(
        True, "whether images are resized with antialiasing, as Pillow does; OpenCV's bilinear resizing has none"
    )
    size_rounding: SizeRounding = experiment(
        "nearest",
        "sides that are not a whole number of pixels, of images that keep their aspect: nearest: rounded; down: cut off, as in "
        "torchvision's detectors, YOLOX and YOLOv8; bounds_down: the size that an image is scaled to fit into is cut off, its "
        "own is rounded, as in mmsegmentation",
    )
    resize_dtype: Literal["uint8", "float32"] = experiment(
        "uint8", "images of 8 bits: resize them as they are, or as floating point numbers, as torchvision's detectors do"
    )
    pad: Literal["centre", "right_below"] = experiment(
        "centre",
        "fit=pad, and images smaller than a random crop: pad them on all sides, or on the right and below; the latter after "
        "flips and colours, as in YOLOX and mmsegmentation",
    )
    fill: list[float] | None = experiment(
        None, "colour outside of images, for pixels between 0 and 1, such as [0.447, 0.447, 0.447]; data.mean if null"
    )
    crop_share: float = experiment(0.875, "fit=crop: side of the centre crop, as a share of the short side", gt=0, le=1)
    mean: list[float] | None = experiment(
        None, "mean of each channel for normalisation, for pixels between 0 and 1; if null, the dataset's own or ImageNet's"
    )
    std: list[float] | None = experiment(None, "standard deviation of each channel for normalisation")
    augment: AugmentConfig = Field(AugmentConfig(), description="random augmentation while training")
    on_error: Literal["fail", "skip"] = experiment(
        "fail", "an unreadable image in training: end the run, naming it; or use the next one instead, and count it"
    )
    max_pixels: Int = experiment(
        MAX_PIXELS, "maximum number of pixels of an image or a mask; a larger one counts as unreadable", ge=1
    )
    changed: Literal["refuse", "accept"] = bookkeeping(
        "refuse",
        "a resume whose training samples or annotations are no longer those of the start: refuse it, or accept them as "
        "they are now, so that some may occur twice in this epoch, or not at all",
    )
    check: Literal["full", "quick"] = bookkeeping(
        "quick", "checks before the first step: names, counts and labels (quick), or also every image and mask (full)"
    )
    cache: str | None = hardware(
        None,
        "cache folder of decoded images, shared by the ranks of a node, such as /dev/shm/NAME or a local disk; none if null",
    )
    transform_on: Literal["workers", "device"] = hardware(
        "workers", "where images are augmented: in the loader processes, or on the rank's device"
    )
    workers: Int = hardware(2, "loader processes per rank; 0 loads in the training process", ge=0)
    ledger: bool = bookkeeping(False, "write the sample ids of every step to ledger/rank-N.jsonl")
