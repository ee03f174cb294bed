"""Resizing an image of any size, its mask and boxes to the network's input.

Masks are resized by the nearest pixel centre (`nearest-exact`), so that they stay aligned with the image.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from phalanx.configs.sections.data import DataConfig, Interpolation, SizeRounding
from phalanx.configs.sections.evaluate import EvaluateConfig

Size = tuple[int, int]
_CROPS = 11  # drawn at most, as in mmsegmentation's RandomCrop


class Placement(NamedTuple):
    """Where the full image is in the network's input, in pixels; it exceeds it if a part is cut off."""

    top: int
    left: int
    height: int
    width: int


def seen_size(config: DataConfig) -> Size:
    """Height and width of the network's input."""
    size = config.image_size
    return (size, size) if isinstance(size, int) else size


def full_size(config: DataConfig, size: Sequence[int]) -> Size:
    """Height and width to which `data.fit` resizes an image, before it is cropped or padded.

    With fit=crop the short side becomes `image_size / crop_share`, rounded as in torchvision's presets for evaluation.
    """
    (height, width), (old_height, old_width) = seen_size(config), size
    if config.fit == "stretch":
        return height, width
    if config.fit == "short_side":
        factor = min(min(height, width) / min(old_height, old_width), max(height, width) / max(old_height, old_width))
        return whole((old_height * factor, old_width * factor), config.size_rounding)
    if config.fit == "pad":
        factor = min(height / old_height, width / old_width)
        return whole((old_height * factor, old_width * factor), config.size_rounding)
    if old_height * width <= old_width * height:
        new_height = max(height, round(height / config.crop_share))
        return new_height, max(width, int(new_height * old_width / old_height))
    new_width = max(width, round(width / config.crop_share))
    return max(height, int(new_width * old_height / old_width)), new_width


def whole(sides: tuple[float, float], rounding: SizeRounding) -> Size:
    """Height and width in whole pixels, by `data.size_rounding`."""
    if rounding == "nearest":
        height, width = round(sides[0]), round(sides[1])
    else:
        above = 0.5 if rounding == "bounds_down" else 0.0
        height, width = int(sides[0] + above), int(sides[1] + above)
    return max(1, height), max(1, width)


def placement(config: DataConfig, size: Sequence[int]) -> Placement:
    """Where an image of some height and width is in the network's input in validation, to map predictions back."""
    (height, width), (whole_height, whole_width) = seen_size(config), full_size(config, size)
    if config.fit == "short_side":
        return Placement(0, 0, whole_height, whole_width)
    if config.fit == "pad" and config.pad == "right_below":
        return Placement(0, 0, whole_height, whole_width)
    top, left = (height - whole_height) / 2, (width - whole_width) / 2
    if config.fit == "crop":
        return Placement(-round(-top), -round(-left), whole_height, whole_width)
    return Placement(int(top), int(left), whole_height, whole_width)


def evaluated_placement(config: DataConfig, evaluate: EvaluateConfig, size: Sequence[int]) -> Placement:
    """As `placement`, if `evaluate.size` sets another size than training's, or the image's own."""
    if evaluate.size == "original":
        return Placement(0, 0, *size)
    return placement(evaluated(config, evaluate), size)


def evaluated(config: DataConfig, evaluate: EvaluateConfig) -> DataConfig:
    """The section `data` for evaluation, with what `evaluate` sets in its place; nothing is drawn there."""
    changed: dict[str, Any] = {"interpolation": "bicubic"} if config.interpolation == "random" else {}
    if evaluate.size not in (None, "original"):
        changed["image_size"] = evaluate.size
    if evaluate.fit is not None:
        changed["fit"] = evaluate.fit
    return config.model_copy(update=changed) if changed else config


def resize(value: Tensor, size: Sequence[int], how: Interpolation = "bilinear", antialias: bool = True) -> Tensor:
    """Resizes an image; a mask by nearest pixels; boxes by their corners."""
    if not isinstance(value, tv_tensors.Mask):
        if how == "random":
            how = "bicubic" if torch.rand(()) < 0.5 else "bilinear"
        resized: Tensor = F.resize(value, list(size), interpolation=InterpolationMode(how), antialias=antialias)
        return resized
    plain = value.as_subclass(Tensor)  # [H, W] of classes, or [n, H, W] of instances
    layers = plain if plain.dim() == 3 else plain.unsqueeze(0)
    layers = F.resize_image(layers, list(size), interpolation=InterpolationMode.NEAREST_EXACT)
    return tv_tensors.Mask(layers if plain.dim() == 3 else layers.squeeze(0))


class Fill:
    """The fill outside of the image: a colour, for pixels between 0 and 1; the ignored class; no instance."""

    def __init__(self, colour: Sequence[float], ignore_index: int):
        self.colour, self._ignore_index = list(colour), ignore_index

    def of(self, value: Tensor) -> "list[float] | int":
        if isinstance(value, tv_tensors.Mask):
            return 0 if value.dtype == torch.bool else self._ignore_index
        if isinstance(value, tv_tensors.BoundingBoxes):
            return 0
        return [round(255 * level) for level in self.colour] if value.dtype == torch.uint8 else self.colour

    def pad(self, value: Tensor, padding: Sequence[int]) -> Tensor:
        """Pads by a number of pixels left, top, right and bottom."""
        padded: Tensor = F.pad(value, list(padding), fill=self.of(value))
        return padded

    def pad_to(self, value: Tensor, size: Size) -> Tensor:
        """Pads on the right and below."""
        missing = size[0] - value.shape[-2], size[1] - value.shape[-1]
        return self.pad(value, (0, 0, missing[1], missing[0])) if any(missing) else value


def pads_last(config: DataConfig) -> bool:
    """Whether training samples are padded on the right and below, after flips and colours."""
    return config.pad == "right_below" and (config.fit == "pad" or config.augment.scale is not None)


class FitToSize(v2.Transform):
    """`data.fit`: the image stretched, centre-cropped, padded with `data.fill`, or in its own aspect.

    Args:
        pads: whether to pad, if `data.fit` does.
    """

    def __init__(self, config: DataConfig, fill: Fill, pads: bool = True):
        super().__init__()
        self._config, self._fill, self._seen, self._pads = config, fill, seen_size(config), pads

    def forward(self, *inputs: Any) -> Any:
        (image, *_) = inputs[0].values() if isinstance(inputs[0], dict) else inputs
        fits = self._config.fit in ("stretch", "pad") and tuple(image.shape[-2:]) == self._seen
        return inputs[0] if fits else super().forward(*inputs)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        size = F.get_size(flat_inputs[0])
        return {"placement": placement(self._config, size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        top, left, height, width = params["placement"]
        resized = resize(inpt, (height, width), self._config.interpolation, self._config.antialias)
        if self._config.fit in ("stretch", "short_side") or (self._config.fit == "pad" and not self._pads):
            return resized
        seen_height, seen_width = self._seen
        if self._config.fit == "crop":
            return F.crop(resized, -top, -left, seen_height, seen_width)
        return self._fill.pad(resized, (left, top, seen_width - width - left, seen_height - height - top))


class RandomScale(v2.Transform):
    """Resizes to `data.fit`'s size times a random factor; then takes a random crop of the network's input size.

    DeepLab's augmentation (Chen et al., arXiv:1606.00915, section 4). A smaller image is padded, unless that comes last.
    """

    def __init__(self, config: DataConfig, factors: tuple[float, float], fill: Fill):
        super().__init__()
        self._config, self._factors, self._fill = config, factors, fill
        self._most = config.augment.crop_most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        size = F.get_size(flat_inputs[0])
        height, width = self._size_of_one(size)
        factor = torch.empty(()).uniform_(*self._factors).item()
        if self._config.size_rounding == "bounds_down":
            return {"size": whole(self._within(size, factor), "bounds_down")}
        return {"size": whole((height * factor, width * factor), self._config.size_rounding)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        height, width = params["size"]
        seen_height, seen_width = seen_size(self._config)
        missing_height, missing_width = max(0, seen_height - height), max(0, seen_width - width)
        resized = resize(inpt, (height, width), self._config.interpolation, self._config.antialias)
        if pads_last(self._config) or not (missing_height or missing_width):
            return resized
        top, left = missing_height // 2, missing_width // 2
        return self._fill.pad(resized, (left, top, missing_width - left, missing_height - top))

    def _size_of_one(self, size: Sequence[int]) -> Sequence[float]:
        """Height and width at a factor of 1."""
        if self._config.augment.scale_of == "fit":
            return full_size(self._config, size)
        factor = 1.0 if self._config.augment.scale_of == "image" else min(seen_size(self._config)) / min(size)
        if (longest := self._config.augment.scale_longest) is not None:
            factor = min(factor, longest / max(size))
        return [side * factor for side in size]

    def _within(self, size: Sequence[int], factor: float) -> tuple[float, float]:
        """Height and width of an image that fits into whole bounds, those of a factor of 1 times the factor and cut off."""
        bounds = [float(side) for side in (full_size(self._config, size) if self._config.augment.scale_of == "fit" else size)]
        if self._config.augment.scale_of == "short_side":
            bounds = [min(seen_size(self._config)), self._config.augment.scale_longest or math.inf]
        bounds = [bound if bound == math.inf else int(bound * factor) for bound in bounds]
        scale = min(min(bounds) / min(size), max(bounds) / max(size))
        return size[0] * scale, size[1] * scale

    def forward(self, *inputs: Any) -> Any:
        scaled = super().forward(*inputs)
        (image, *_) = scaled.values() if isinstance(scaled, dict) else (scaled,)
        crop = v2.RandomCrop([min(sides) for sides in zip(F.get_size(image), seen_size(self._config), strict=True)])
        cropped = crop(scaled)
        for _ in range(_CROPS - 1):
            if self._most is None or not self._is_monotonous(cropped):
                break
            cropped = crop(scaled)
        return cropped

    def _is_monotonous(self, sample: Any) -> bool:
        """Whether one class alone counts, or has more than `crop_most` of the pixels that do."""
        mask = sample.get("mask") if isinstance(sample, dict) else None
        if mask is None:
            return False
        counts = torch.unique(mask[mask != self._config.ignore_index], return_counts=True)[1]
        return len(counts) < 2 or bool(counts.max() >= self._most * counts.sum())


class RandomArea(v2.RandomResizedCrop):
    """A random part of the image, resized to the network's input (Szegedy et al., arXiv:1409.4842, section 6).

    Args:
        area, aspect: ranges of the part's share of the image and of its ratio of width to height.
    """

    def __init__(self, size: Size, area: tuple[float, float], aspect: tuple[float, float], config: DataConfig):
        super().__init__(size, scale=area, ratio=aspect)
        self._how: tuple[Interpolation, bool] = config.interpolation, config.antialias

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return resize(F.crop(inpt, **params), self.size, *self._how)


class RandomRotateShear(v2.RandomAffine):
    """Random rotation and shear around the centre; the canvas stays, its corners are filled.

    A box becomes the one around its rotated corners.

    Args:
        degrees, shear: the maximum in both directions, in degrees.
    """

    def __init__(self, degrees: float, shear: float, fill: Fill):
        sheared = [-shear, shear, -shear, shear] if shear else None
        super().__init__(degrees, shear=sheared, interpolation=InterpolationMode.BILINEAR)
        self._ground = fill

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return F.affine(inpt, **params, interpolation=self.interpolation, fill=self._ground.of(inpt))
