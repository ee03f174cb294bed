"""Mosaic: four images around a point, as one (Bochkovskiy et al., YOLOv4, arXiv:2004.10934, section 3.3).

YOLOv5 and its followers make a canvas of twice the size, scale, rotate, shear and move it at random, and crop it. Here the
images are scaled before they are pasted, and only what may be seen of the canvas is made, see `mosaic_canvas`.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.data.transforms.fit import Fill, resize, seen_size
from phalanx.data.transforms.mosaic_canvas import Canvas, draw_canvas, draw_single
from phalanx.data.transforms.pipeline import Pipeline, learnt, tighten
from phalanx.dist.microbatches.randomness import key, seed_loading
from phalanx.dist.microbatches.sampler import Draw

PARTS = 4
OTHERS = "others"  # entry of a sample: int64 [7], ids of the other samples in it, -1 for none
_MOST_OTHERS = 2 * PARTS - 1
_BLEND = 32.0  # both parameters of the beta distribution of a blend's shares: nearly halves
_SMALLEST = 2.0  # a box with a shorter side, in pixels, too

Sample = dict[str, Any]


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
    return Mosaics(config, dataset, Fill(seen.mean, config.data.ignore_index))


class Mosaics:
    """Loads samples for training: some as mosaics, and some of these blended with another mosaic (arXiv:1710.09412).

    Which samples are taken, and where they are put, is a function of (seed, epoch, sample id). Each has an entry `others`.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, fill: Fill):
        self._dataset, self._seed, self._augment = dataset, config.seed, config.data.augment
        self._size, self._fill = seen_size(config.data), fill

    def __call__(self, draw: Draw) -> Sample:
        draws = random.Random(key(self._seed, "mosaic", draw.epoch, draw.sample))
        ended = self._augment.mosaic_epochs is not None and draw.epoch >= self._augment.mosaic_epochs
        others: list[int] = []
        if ended or draws.random() >= self._augment.mosaic:
            made = dict(self._loaded(draw.epoch, draw.sample))
            if self._augment.mosaic_single:
                torch.default_generator.manual_seed(key(self._seed, "mosaic", "single", draw.epoch, draw.sample))
                made = moved_alone(made, draw_canvas(self._size, self._augment), self._fill)
        else:
            others = [draws.randrange(len(self._dataset)) for _ in range(PARTS - 1)]
            made = self._composed(draw, [draw.sample, *others], "first")
            if draws.random() < self._augment.mosaic_mixup:
                blended, more = self._blended(draw, draws, made)
                others += more
                made = blended
        return made | {OTHERS: torch.tensor(others + [-1] * (_MOST_OTHERS - len(others)))}

    def _blended(self, draw: Draw, draws: random.Random, made: Sample) -> tuple[Sample, list[int]]:
        """The mosaic blended with another, or with a single image that has objects, and the samples of these."""
        if self._augment.mosaic_mixup_scale is None:
            more = [draws.randrange(len(self._dataset)) for _ in range(PARTS)]
            return _blended(made, self._composed(draw, more, "second"), draws.betavariate(_BLEND, _BLEND)), more
        for _ in range(len(self._dataset)):  # the training data was checked to have objects
            other = draws.randrange(len(self._dataset))
            part = self._loaded(draw.epoch, other)
            if len(part["labels"]):
                break
        torch.default_generator.manual_seed(key(self._seed, "mosaic", "second", draw.epoch, draw.sample))
        single = beside(part, draw_single(self._size, self._augment, self._augment.mosaic_mixup_scale), self._fill)
        return _blended(made, single, 0.5), [other]

    def _loaded(self, epoch: int, sample: int) -> Mapping[str, Any]:
        seed_loading(key(self._seed, "load", epoch, sample))
        return learnt(self._dataset[sample])

    def _composed(self, draw: Draw, samples: Sequence[int], which: str) -> Sample:
        parts = [self._loaded(draw.epoch, sample) for sample in samples]
        torch.default_generator.manual_seed(key(self._seed, "mosaic", which, draw.epoch, draw.sample))
        return mosaic(parts, draw_canvas(self._size, self._augment), self._fill)


def _blended(one: Sample, other: Sample, share: float) -> Sample:
    """Two pictures as one, with the objects of both."""
    image = one["image"].float() * share + other["image"].float() * (1 - share)
    integral = not one["image"].is_floating_point()
    joined = {name: torch.cat([one[name], other[name]]) for name in one if name != "image"}
    return joined | {"image": image.round().to(one["image"].dtype) if integral else image}


def moved_alone(part: Mapping[str, Any], canvas: Canvas, fill: Fill) -> Sample:
    """One sample in the middle of the canvas, as four are around its point. Shape: as `mosaic`."""
    height, width = canvas.fitted(part["image"].shape[-2:])
    return _pasted([part], [(canvas.middle[0] - height // 2, canvas.middle[1] - width // 2)], canvas, fill)


def beside(part: Mapping[str, Any], canvas: Canvas, fill: Fill) -> Sample:
    """One sample whose upper left corner is the canvas's point, mirrored with a probability of one half. Shape: as `mosaic`."""
    if torch.rand(()) < 0.5:
        width = part["image"].shape[-1]
        boxes = part["boxes"][:, [2, 1, 0, 3]]
        boxes[:, [0, 2]] = width - boxes[:, [0, 2]]
        mirrored = {"masks": part["masks"].flip(-1)} if "masks" in part else {}
        part = {**part, "image": part["image"].flip(-1), "boxes": boxes, **mirrored}
    return _pasted([part], [canvas.centre], canvas, fill)


def mosaic(parts: Sequence[Mapping[str, Any]], canvas: Canvas, fill: Fill) -> Sample:
    """Four samples as one.

    Args:
        parts: `image` [C, h, w] of any sizes and one type, `boxes` [n, 4], `labels` [n], optionally `masks` [n, h, w].
        canvas: where they meet, and how the canvas is turned before it is cropped to the result's `size`.
        fill: the fill between the images.

    Returns:
        `image` [C, *size], `boxes` [N, 4], `labels` [N], and `masks` [N, *size] if all parts have them.
    """
    corners = []
    for place, part in enumerate(parts):
        height, width = canvas.fitted(part["image"].shape[-2:])
        top, left = canvas.centre
        corners.append((top - height if place < 2 else top, left - width if place % 2 == 0 else left))
    return _pasted(parts, corners, canvas, fill)


def _pasted(parts: Sequence[Mapping[str, Any]], corners: Sequence[tuple[int, int]], canvas: Canvas, fill: Fill) -> Sample:
    """Samples on a canvas, each with its upper left corner in a row and a column of the frame, seen as the result."""
    ground = _ground(parts[0]["image"], canvas.frame, fill)
    boxes, labels, masks = [], [], []
    for (top, left), part in zip(corners, parts, strict=True):
        image = part["image"]
        new = canvas.fitted(image.shape[-2:])
        _paste(ground, resize(tv_tensors.Image(image), new).as_subclass(Tensor), top, left, canvas)
        stretch = part["boxes"].new_tensor([new[1] / image.shape[-1], new[0] / image.shape[-2]] * 2)
        moved = part["boxes"] * stretch + part["boxes"].new_tensor([left, top, left, top])
        kept, clipped = _kept(moved, canvas)
        boxes.append(clipped[kept])
        labels.append(part["labels"][kept])
        if "masks" in part:
            layers = torch.zeros(int(kept.sum()), *canvas.frame, dtype=torch.bool)
            _paste(layers, resize(tv_tensors.Mask(part["masks"][kept]), new).as_subclass(Tensor), top, left, canvas)
            masks.append(canvas.seen(tv_tensors.Mask(layers), fill))
    found = {"image": canvas.seen(tv_tensors.Image(ground), fill), "boxes": torch.cat(boxes), "labels": torch.cat(labels)}
    if len(masks) < len(parts):
        return found
    found["masks"] = torch.cat(masks)
    return tighten(found) if canvas.turned else found


def _ground(image: Tensor, size: tuple[int, int], fill: Fill) -> Tensor:
    colour = torch.tensor(fill.of(image), dtype=image.dtype).view(-1, 1, 1)
    return colour.expand(image.shape[0], *size).clone()


def _paste(ground: Tensor, image: Tensor, top: int, left: int, canvas: Canvas) -> None:
    """Pastes the part of an image that is on the canvas. Shape: [..., H, W] and [..., h, w]."""
    first_row, first_column, last_row, last_column = canvas.bounds
    bottom, right = min(last_row, top + image.shape[-2]), min(last_column, left + image.shape[-1])
    to_top, to_left = max(first_row, top), max(first_column, left)
    if to_top < bottom and to_left < right:
        ground[..., to_top:bottom, to_left:right] = image[..., to_top - top : bottom - top, to_left - left : right - left]


def _kept(boxes: Tensor, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Which boxes remain visible in the result, and all of them there, clipped to it."""
    top, left, bottom, right = canvas.bounds
    there = torch.minimum(torch.maximum(boxes, boxes.new_tensor([left, top] * 2)), boxes.new_tensor([right, bottom] * 2))
    height, width = canvas.size
    clipped = torch.minimum(canvas.moved(there).clamp(min=0), boxes.new_tensor([width, height] * 2))
    sides, before = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    share = sides.clamp(min=0).prod(dim=1) / before.prod(dim=1).clamp(min=1e-9)
    kept = (sides.amin(dim=1) >= _SMALLEST) & (share >= canvas.visible)
    if canvas.longest is not None:
        kept &= sides.amax(dim=1) <= canvas.longest * sides.amin(dim=1)
    return kept, clipped
