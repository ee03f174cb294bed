"""From a stored sample to the network's input: image, mask and boxes together, by torchvision.transforms.v2.

Every random number comes from torch's global generator, which the loader seeds for each sample; so any transform of
torchvision may be used here, and the result is the same in any loader process, on any rank, before and after a resume.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import load_own
from phalanx.configs.sections.data import DataConfig
from phalanx.configs.sections.evaluate import EvaluateConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset, Split
from phalanx.data.transforms import albumentations_transform
from phalanx.data.transforms.albumentations_transform import Albumentations
from phalanx.data.transforms.by_pillow import ByPillow
from phalanx.data.transforms.colours import MultipliedHsv, PhotometricDistortion
from phalanx.data.transforms.fit import (
    Fill,
    FitToSize,
    Placement,
    RandomArea,
    RandomRotateShear,
    RandomScale,
    evaluated,
    evaluated_placement,
    pads_last,
    seen_size,
)
from phalanx.data.transforms.timm_augment import TimmAugment

Sample = dict[str, Any]
Statistics = tuple[Sequence[float], Sequence[float]]

_COLOURS = {"jitter": v2.ColorJitter, "hsv": MultipliedHsv, "photometric": PhotometricDistortion}
_PLACED = ("mask", "boxes", "masks")  # annotations that move with the image
_OF_OBJECTS = ("boxes", "labels", "masks")
_OF_EVALUATION = ("crowd", "area")  # of each object, for evaluation only


def pipeline(
    config: DataConfig,
    dataset: Dataset,
    split: Split,
    statistics: Statistics | None = None,
    evaluate: EvaluateConfig | None = None,
) -> "Pipeline":
    """The transforms of each sample of a split.

    Args:
        statistics: mean and standard deviation of each channel for pretrained weights, for pixels between 0 and 1;
            `data.mean` and `data.std` override them, and they override the dataset's own.
        evaluate: the settings of evaluation.

    Raises:
        UserError: if an augmentation does not fit such images or labels.
    """
    kind, ignored = dataset_info.kind(dataset), dataset_info.ignored(dataset)
    config = config if ignored is None else config.model_copy(update={"ignore_index": ignored})
    _check(config, kind, dataset.channels)
    mean, std = statistics or (dataset.mean, dataset.std)
    if config.mean is not None and config.std is not None:
        mean, std = config.mean, config.std
    for key, numbers in (("mean", mean), ("std", std), ("fill", config.fill or mean)):
        if len(numbers) != dataset.channels:
            raise UserError(
                f"data.{key}: {len(numbers)} numbers {list(numbers)}, but the images of data.name={config.name} have "
                f"{dataset.channels} channels. Set data.mean and data.std with one number per channel, or data.mode.",
                shared=True,
            )
    return Pipeline(config, mean, std, kind, split, evaluate or EvaluateConfig())


def _check(config: DataConfig, kind: str, channels: int) -> None:
    """Checks that the augmentations fit such labels and images."""
    augment = config.augment
    if kind in ("segmentation", "detection"):
        for key in ("autoaugment", "randaugment", "trivialaugment", "timm", "erasing"):
            if getattr(augment, key):
                raise UserError(
                    f"data.augment.{key} is for classification: masks and boxes do not follow it. Switch it off.", True
                )
        if config.fit == "crop":
            raise UserError("data.fit=crop would cut off what masks and boxes describe. Set data.fit=stretch or pad.", True)
    if config.fit == "short_side":
        _check_short_side(config, kind)
    if augment.shift and pads_last(config):
        raise UserError(
            "data.augment.shift cuts images to one size, which they have only after data.pad=right_below. Set data.pad=centre.",
            shared=True,
        )
    if augment.timm is not None and channels != 3:
        raise UserError("data.augment.timm is for colour images. Set data.mode=rgb, or remove it.", shared=True)
    if channels not in (1, 3):
        for key in ("contrast", "saturation", "hue", "autoaugment", "randaugment", "trivialaugment"):
            if getattr(augment, key):
                raise UserError(
                    f"data.augment.{key} is for images of 1 or 3 channels, and these have {channels}. "
                    "Switch it off, or set data.mode=rgb.",
                    shared=True,
                )


def _check_short_side(config: DataConfig, kind: str) -> None:
    if kind != "detection":
        raise UserError(
            f"data.fit=short_side gives images of several sizes, which {kind} does not take. Set data.fit=pad.", True
        )
    for key in ("area", "scale", "shift"):
        if getattr(config.augment, key):
            raise UserError(
                f"data.augment.{key} cuts images to one size, which data.fit=short_side has not. Switch one off.", True
            )


class Pipeline:
    """Fits, augments (while training) and normalises a sample.

    An integer image stays one while that is faster, until the colour transforms are done; `uint16`, which few operations
    support, becomes float32 at once.

    Attributes:
        mean, std: the normalisation of images, one number per channel.
        fill: what is outside of images.
        ragged: entries whose size differs from sample to sample; a batch has a list of them.
    """

    def __init__(
        self,
        config: DataConfig,
        mean: Sequence[float],
        std: Sequence[float],
        kind: str,
        split: Split,
        evaluate: EvaluateConfig,
    ):
        self.mean, self.std = tuple(mean), tuple(std)
        own_size = split == "val" and evaluate.size == "original"
        ragged = {*_OF_OBJECTS, *_OF_EVALUATION} | ({"mask", "pixels"} if split == "val" else set())
        own_aspect = (config if split == "train" else evaluated(config, evaluate)).fit == "short_side"
        self.ragged = frozenset(ragged | ({"image"} if own_size or own_aspect else set()))
        self._constants = {torch.device("cpu"): tuple(torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))}
        self._config, self._training, self._ignore_index = config, split == "train", config.ignore_index
        self._evaluate, self._keeps_pixels = evaluate, split == "val" and evaluate.crf
        seen = config if self._training else evaluated(config, evaluate)
        self.fill = Fill(config.fill or self.mean, config.ignore_index)
        self._geometry = [] if own_size else _geometry(seen, self.fill, kind, self._training)
        self._pads_last = self._training and pads_last(config)
        self._plain = [FitToSize(config, self.fill, pads=not self._pads_last)]
        self._turns = self._training and bool(config.augment.rotate or config.augment.shear)
        self._colours = _colours(config, self.mean) if self._training else []
        own = [load_own("data.augment.own", name)() for name in config.augment.own] if self._training else []
        self._own = [Albumentations(each) if albumentations_transform.is_one(each) else each for each in own]
        self._last = [v2.RandomErasing(config.augment.erasing)] if self._training and config.augment.erasing else []

    def __call__(self, sample: Mapping[str, Any]) -> Sample:
        """Transforms a dataset's sample.

        Shape: `image` [C, H, W] of any size to [C, *image_size], float32 with about zero mean and unit variance. In training
        `mask` [H, W], `boxes` [n, 4] and `masks` [n, H, W] are transformed too; boxes of less than a pixel and those of `crowd`
        are dropped, with their `labels` [n] and masks. In validation they are unchanged, and `size` [2] is the image's
        original height and width: `placement` maps it to the input. `mask` becomes int64; all else is passed on. With
        `evaluate.size=original` images keep their size in validation; with `evaluate.crf` they are also kept as `pixels`,
        uint8 as stored. A sample without an image is returned as it is.
        """
        if "image" not in sample:
            return dict(sample)
        sample = learnt(sample) if self._training else sample
        image = sample["image"]
        if image.dtype != torch.uint8:
            image = image.float() / 65535 if image.dtype == torch.uint16 else image.float()
        elif self._config.resize_dtype == "float32":
            image = image.float().div_(255)
        placed = {name: sample[name] for name in _PLACED if name in sample}
        colours = self._colours
        if not placed and not self._own:
            moved = {"image": _apply_all(self._geometry, image)}
        elif self._training:
            moved = self._with_labels(image, placed, sample.get("labels"), self._geometry)
            if "boxes" in moved and self._are_all_small(moved["boxes"]):  # as in YOLOX, the image is then as it was
                moved, colours = self._with_labels(image, placed, sample.get("labels"), self._plain), []
            moved = self._large_enough(moved) if "boxes" in moved else moved
        else:
            moved = placed | {"image": _apply_all(self._geometry, image), "size": torch.tensor(image.shape[-2:])}
        if "mask" in moved:
            moved["mask"] = moved["mask"].long()
        if self._keeps_pixels:
            moved["pixels"] = image if image.dtype == torch.uint8 else image.mul(255).round().to(torch.uint8)
        moved["image"] = _apply_all(colours, moved["image"])
        if self._pads_last:
            moved |= self._padded(moved)
        image = self._normalised(moved["image"])
        return {**sample, **moved, "image": _apply_all(self._last, image)}

    def _with_labels(
        self, image: Tensor, placed: dict[str, Tensor], labels: Tensor | None, geometry: Sequence[v2.Transform]
    ) -> Sample:
        """The image, its mask and boxes moved together, and changed by transforms of the user's own."""
        wrapped: dict[str, Tensor] = {"image": tv_tensors.Image(image)}
        if "mask" in placed:
            wide = placed["mask"].dtype != torch.uint8 or self._ignore_index > 255
            wrapped["mask"] = tv_tensors.Mask(placed["mask"].long() if wide else placed["mask"])
        if "boxes" in placed:
            size = (image.shape[-2], image.shape[-1])
            wrapped["boxes"] = tv_tensors.BoundingBoxes(placed["boxes"], format="XYXY", canvas_size=size)
        if "masks" in placed:
            wrapped["masks"] = tv_tensors.Mask(placed["masks"])
        wrapped = _apply_all([*geometry, *self._own], wrapped)
        moved: Sample = {name: value.as_subclass(Tensor) for name, value in wrapped.items()}
        if "boxes" in wrapped:
            moved["boxes"], whole = F.sanitize_bounding_boxes(F.clamp_bounding_boxes(wrapped["boxes"]))
            moved["boxes"] = moved["boxes"].as_subclass(Tensor)
            if labels is not None:
                moved["labels"] = labels[whole]
            if "masks" in moved:
                moved["masks"] = moved["masks"][whole]
            if "masks" in moved and self._turns:
                moved = tighten(moved)
        return moved

    def _padded(self, sample: Sample) -> Sample:
        """The image and its masks, padded on the right and below to the network's input."""
        entries: dict[str, Tensor] = {"image": sample["image"]}
        for name in ("mask", "masks"):
            if name in sample:
                entries[name] = tv_tensors.Mask(sample[name])
        size = seen_size(self._config)
        return {name: self.fill.pad_to(value, size).as_subclass(Tensor) for name, value in entries.items()}

    def _are_all_small(self, boxes: Tensor) -> bool:
        smallest = self._config.augment.smallest_object
        return bool(smallest and (_shorter_sides(boxes) <= smallest).all())  # also if there are none

    def _large_enough(self, sample: Sample) -> Sample:
        """Without objects that are too small, unless all of them are; of many, the first ones."""
        smallest, most = self._config.augment.smallest_object, self._config.augment.most_objects
        chosen = torch.arange(len(sample["boxes"]))
        if smallest and not self._are_all_small(sample["boxes"]):
            chosen = (_shorter_sides(sample["boxes"]) > smallest).nonzero().flatten()
        if len(chosen[:most]) == len(sample["boxes"]):
            return sample
        return sample | {name: sample[name][chosen[:most]] for name in _OF_OBJECTS if name in sample}

    def _normalised(self, image: Tensor) -> Tensor:
        mean, std = self._constants_on(image.device)
        if image.dtype == torch.uint8:
            return image.float().div_(255).sub_(mean).div_(std)
        return image.sub(mean).div_(std)

    def pixels(self, image: Tensor) -> Tensor:
        """A normalised image back between 0 and 1, for viewing."""
        mean, std = self._constants_on(image.device)
        return (image * std + mean).clamp(0, 1)

    def placement(self, size: Sequence[int]) -> Placement:
        """Where an image of some height and width is in the network's input in validation."""
        return evaluated_placement(self._config, self._evaluate, size)

    def _constants_on(self, device: torch.device) -> tuple[Tensor, ...]:
        if device not in self._constants:
            self._constants[device] = tuple(value.to(device) for value in self._constants[torch.device("cpu")])
        return self._constants[device]


def learnt(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample without objects that are not learnt, and without entries for evaluation only."""
    if "crowd" not in sample:
        return {name: value for name, value in sample.items() if name not in _OF_EVALUATION}
    kept = ~sample["crowd"]
    objects = {name: sample[name][kept] for name in _OF_OBJECTS if name in sample}
    return {name: value for name, value in sample.items() if name not in _OF_EVALUATION} | objects


def tighten(sample: Sample) -> Sample:
    """Fits boxes to their masks, since a box around the corners of a rotated box is too large; what is not seen is left out."""
    shown = sample["masks"].flatten(1).any(dim=1)
    tight = sample | {name: sample[name][shown] for name in _OF_OBJECTS if name in sample}
    if shown.any():
        boxes = masks_to_boxes(tight["masks"])
        tight["boxes"] = boxes + boxes.new_tensor([0, 0, 1, 1])  # corners, not pixels
    return tight


def _shorter_sides(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)


def _apply_all(steps: Sequence[Any], value: Any) -> Any:
    for step in steps:
        value = step(value)
    return value


def _geometry(config: DataConfig, fill: Fill, kind: str, training: bool) -> list[v2.Transform]:
    """Steps that move pixels, and with them masks and boxes."""
    augment, size = config.augment, seen_size(config)
    if not training:
        return [FitToSize(config, fill)]
    if augment.area is not None:
        steps: list[v2.Transform] = [RandomArea(size, augment.area, augment.aspect, config)]
    elif augment.scale is not None:
        steps = [RandomScale(config, augment.scale, fill)]
    else:
        steps = [FitToSize(config, fill, pads=not pads_last(config))]
    if augment.shift:
        black = {tv_tensors.Mask: 0 if kind == "detection" else config.ignore_index, "others": 0}
        steps.append(v2.RandomCrop(size, padding=augment.shift, fill=black))
    if augment.rotate or augment.shear:
        steps.append(RandomRotateShear(augment.rotate, augment.shear, fill))
    if augment.flip:
        steps.append(v2.RandomHorizontalFlip(augment.flip))
    if augment.vertical_flip:
        steps.append(v2.RandomVerticalFlip(augment.vertical_flip))
    return steps


def _colours(config: DataConfig, mean: Sequence[float]) -> list[Callable[[Tensor], Tensor]]:
    """Steps that change the image alone. Grey has no saturation and no hue."""
    augment, channels, how = config.augment, len(mean), InterpolationMode(config.augment.policy_interpolation)
    steps: list[Callable[[Tensor], Tensor]] = []
    if augment.timm is not None:
        steps.append(TimmAugment(augment.timm, seen_size(config), mean, config.interpolation))
    policies: list[Callable[[Any], Any]] = []
    if augment.autoaugment is not None:
        policies.append(v2.AutoAugment(AutoAugmentPolicy(augment.autoaugment), how))
    if augment.randaugment:
        policies.append(v2.RandAugment(augment.randaugment, augment.randaugment_magnitude, interpolation=how))
    if augment.trivialaugment:
        policies.append(v2.TrivialAugmentWide(interpolation=how))
    # torchvision rotates tensors bilinearly at best.
    steps += map(ByPillow, policies) if how == InterpolationMode.BICUBIC else policies
    saturation, hue = (augment.saturation, augment.hue) if channels == 3 else (0.0, 0.0)
    if augment.brightness or augment.contrast or saturation or hue:
        steps.append(_COLOURS[augment.colour](augment.brightness, augment.contrast, saturation, hue))
    return steps
