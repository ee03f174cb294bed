"""Mosaic: four images around a point, as one (Bochkovskiy et al., YOLOv4, arXiv:2004.10934, section 3.3).

By default the images are scaled before they are pasted, and meet near the middle of the result. With
`data.augment.mosaic_shift` they are pasted on a canvas of twice the size, which is warped, see `mosaic_canvas`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torchvision import tv_tensors

from phalanx.configs.sections.data import AugmentConfig, DataConfig
from phalanx.data.transforms.fit import Fill, Size, resize, seen_size, whole
from phalanx.data.transforms.mosaic_canvas import Warp, draw_point, draw_warp, drawn
from phalanx.data.transforms.pipeline import tighten

Sample = dict[str, Any]
_NEAR = (0.25, 0.75)  # without a canvas, where the images meet, as shares of height and width
_BLENDED_SMALLEST = 5.0  # as in YOLOX


class VisibleBoxes(NamedTuple):
    """Which boxes remain in a result.

    Attributes:
        visible: the least share of its area that a box keeps.
        longest: the largest ratio of its sides; None for any.
        smallest: its least side, in pixels.
    """

    visible: float = 0.1
    longest: float | None = None
    smallest: float = 2.0

    def of(self, boxes: Tensor, areas: Tensor) -> Tensor:
        """Of boxes in a result, clipped to it, and their areas there if nothing were cut off. Shape: [n, 4], [n] to [n]."""
        sides = boxes[:, 2:] - boxes[:, :2]
        share = sides.clamp(min=0).prod(dim=1) / areas.clamp(min=1e-9)
        kept = (sides.amin(dim=1) >= self.smallest) & (share >= self.visible)
        return kept if self.longest is None else kept & (sides.amax(dim=1) <= self.longest * sides.amin(dim=1))


class View(Protocol):
    """How a ground with pasted images becomes the result."""

    @property
    def ground(self) -> Size:
        """Height and width of the ground."""
        ...

    def boxes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes of the ground in the result, clipped to it, and their areas if nothing were cut off."""
        ...

    def image(self, ground: Tensor, fill: Fill) -> Tensor: ...

    def masks(self, layers: Tensor) -> Tensor: ...


class Direct(NamedTuple):
    """The ground is the result."""

    size: Size

    @property
    def ground(self) -> Size:
        return self.size

    def boxes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return _clipped(boxes, self.size), _areas(boxes)

    def image(self, ground: Tensor, fill: Fill) -> Tensor:
        return ground

    def masks(self, layers: Tensor) -> Tensor:
        return layers


class Warped(NamedTuple):
    """The ground is a canvas that is warped."""

    warp: Warp

    @property
    def ground(self) -> Size:
        return self.warp.canvas

    def boxes(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        there = _clipped(boxes, self.ground)
        return _clipped(self.warp.boxes(there), self.warp.size), _areas(there) * self.warp.scale**2

    def image(self, ground: Tensor, fill: Fill) -> Tensor:
        return self.warp.image(ground, fill)

    def masks(self, layers: Tensor) -> Tensor:
        return self.warp.masks(layers)


class Composer:
    """Makes one sample of several, by random numbers of torch's global generator.

    Args:
        fill: what is between and around the images.
    """

    def __init__(self, config: DataConfig, fill: Fill):
        augment: AugmentConfig = config.augment
        self._size, self._augment, self._fill = seen_size(config), augment, fill
        self._antialias, self._rounding = config.antialias, config.size_rounding
        self._kept = VisibleBoxes(augment.mosaic_visible, augment.mosaic_longest)

    def mosaic(self, parts: Sequence[Sample]) -> Sample:
        """Four samples as one.

        Args:
            parts: `image` [C, h, w] of any sizes and one type, `boxes` [n, 4], `labels` [n], optionally `masks` [n, h, w].

        Returns:
            `image` [C, *size], `boxes` [N, 4], `labels` [N], and `masks` [N, *size] if all parts have them.
        """
        if self._augment.mosaic_shift is None:
            factor = drawn(*self._augment.mosaic_scale)
            top, left = (round(drawn(*_NEAR) * side) for side in self._size)
            view: View = Direct(self._size)
        else:
            factor, (top, left) = 1.0, draw_point(self._size)
            view = Warped(draw_warp(self._size, (2 * self._size[0], 2 * self._size[1]), self._augment))
        sizes = [self._fitted(part, factor) for part in parts]
        corners = [
            (top - height if place < 2 else top, left - width if place % 2 == 0 else left)
            for place, (height, width) in enumerate(sizes)
        ]
        return self._pasted(parts, sizes, corners, view, self._kept)

    def alone(self, part: Sample) -> Sample:
        """One sample, padded to the network's size and warped as a mosaic's canvas. Shape: as `mosaic`."""
        height, width = self._fitted(part)
        corner = (self._size[0] - height) // 2, (self._size[1] - width) // 2
        view = Warped(draw_warp(self._size, self._size, self._augment))
        return self._pasted([part], [(height, width)], [corner], view, self._kept)

    def beside(self, part: Sample, scale: tuple[float, float]) -> Sample:
        """One sample of a random scale, padded on the right and below, mirrored with a probability of one half.

        YOLOX's code blends such ones with mosaics: a random part of it where it is larger than the result; where it is smaller,
        it is in the upper left corner, and black is around it. Shape: as `mosaic`.
        """
        factor, mirrored = drawn(*scale), bool(torch.rand(()) < 0.5)
        part = self._resized(part)  # there it is resized to the network's size first, and then by the factor
        height, width = self._fitted(part, factor)
        padded = whole((self._size[0] * factor, self._size[1] * factor), self._rounding)
        top, left = (-int(torch.randint(max(1, there - side), ())) for there, side in zip(padded, self._size, strict=True))
        ground = torch.zeros(part["image"].shape[0], *self._size, dtype=part["image"].dtype)
        colour = _colour(part["image"], self._fill)
        ground[:, : max(0, padded[0] + top), : max(0, padded[1] + left)] = colour
        if mirrored:
            part, left = _mirrored(part), left + padded[1] - width
        kept = self._kept._replace(smallest=_BLENDED_SMALLEST)
        return self._pasted([part], [(height, width)], [(top, left)], Direct(self._size), kept, ground)

    def _fitted(self, part: Sample, factor: float = 1.0) -> Size:
        """Height and width of a sample that fits into the result, times a factor."""
        height, width = part["image"].shape[-2:]
        ratio = factor * min(self._size[0] / height, self._size[1] / width)
        return whole((height * ratio, width * ratio), self._rounding)

    def _resized(self, part: Sample) -> Sample:
        """A sample that fits into the result."""
        image = part["image"]
        new = self._fitted(part)
        stretch = part["boxes"].new_tensor([new[1] / image.shape[-1], new[0] / image.shape[-2]] * 2)
        masks = {"masks": resize(tv_tensors.Mask(part["masks"]), new).as_subclass(Tensor)} if "masks" in part else {}
        smaller = resize(tv_tensors.Image(image), new, antialias=self._antialias).as_subclass(Tensor)
        return {**part, "image": smaller, "boxes": part["boxes"] * stretch, **masks}

    def _pasted(
        self,
        parts: Sequence[Sample],
        sizes: Sequence[Size],
        corners: Sequence[tuple[int, int]],
        view: View,
        kept: VisibleBoxes,
        ground: Tensor | None = None,
    ) -> Sample:
        """Samples on a ground, each of some height and width, with its upper left corner in some row and column."""
        if ground is None:
            channels, *_ = parts[0]["image"].shape
            ground = _colour(parts[0]["image"], self._fill).expand(channels, *view.ground).clone()
        boxes, labels, masks = [], [], []
        for part, new, (top, left) in zip(parts, sizes, corners, strict=True):
            image = part["image"]
            _paste(ground, resize(tv_tensors.Image(image), new, antialias=self._antialias).as_subclass(Tensor), top, left)
            stretch = part["boxes"].new_tensor([new[1] / image.shape[-1], new[0] / image.shape[-2]] * 2)
            seen, areas = view.boxes(part["boxes"] * stretch + part["boxes"].new_tensor([left, top, left, top]))
            chosen = kept.of(seen, areas)
            boxes.append(seen[chosen])
            labels.append(part["labels"][chosen])
            if "masks" in part:
                layers = torch.zeros(int(chosen.sum()), *view.ground, dtype=torch.bool)
                _paste(layers, resize(tv_tensors.Mask(part["masks"][chosen]), new).as_subclass(Tensor), top, left)
                masks.append(view.masks(layers))
        found = {
            "image": view.image(ground, self._fill),
            "boxes": torch.cat(boxes),
            "labels": torch.cat(labels),
        }
        if len(masks) < len(parts):
            return found
        found["masks"] = torch.cat(masks)
        return tighten(found) if isinstance(view, Warped) else found


def blended(one: Sample, other: Sample, share: float, cut_off: bool = False) -> Sample:
    """Two pictures as one, with the objects of both.

    Args:
        share: the first picture's.
        cut_off: whether integer pixels are cut off, as in YOLOX; otherwise they are rounded.
    """
    image = one["image"].float() * share + other["image"].float() * (1 - share)
    integral = not one["image"].is_floating_point()
    joined = {name: torch.cat([one[name], other[name]]) for name in one if name != "image"}
    return joined | {"image": (image if cut_off else image.round()).to(one["image"].dtype) if integral else image}


def _mirrored(part: Sample) -> Sample:
    width = part["image"].shape[-1]
    boxes = part["boxes"][:, [2, 1, 0, 3]]
    boxes[:, [0, 2]] = width - boxes[:, [0, 2]]
    masks = {"masks": part["masks"].flip(-1)} if "masks" in part else {}
    return {**part, "image": part["image"].flip(-1), "boxes": boxes, **masks}


def _colour(image: Tensor, fill: Fill) -> Tensor:
    return torch.tensor(fill.of(image), dtype=image.dtype).view(-1, 1, 1)


def _paste(ground: Tensor, image: Tensor, top: int, left: int) -> None:
    """Pastes the part of an image that is on the ground. Shape: [..., H, W] and [..., h, w]."""
    bottom, right = min(ground.shape[-2], top + image.shape[-2]), min(ground.shape[-1], left + image.shape[-1])
    to_top, to_left = max(0, top), max(0, left)
    if to_top < bottom and to_left < right:
        ground[..., to_top:bottom, to_left:right] = image[..., to_top - top : bottom - top, to_left - left : right - left]


def _clipped(boxes: Tensor, size: Size) -> Tensor:
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([size[1], size[0]] * 2))


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
