"""Mosaic: four images around a point, as one (Bochkovskiy et al., YOLOv4, arXiv:2004.10934, section 3.3).

YOLOv5 and its followers make a canvas of twice the size, scale and move it at random, and crop it. Without rotation and shear,
which they disable, that is equivalent to scaling the images and pasting them around a random point directly.
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
from phalanx.data.transforms.pipeline import Pipeline, learnt
from phalanx.dist.microbatches.randomness import key, seed_loading
from phalanx.dist.microbatches.sampler import Draw

PARTS = 4
OTHERS = "others"  # entry of a sample: int64 [7], ids of the other samples in it, -1 for none
_MOST_OTHERS = 2 * PARTS - 1
_BLEND = 32.0  # both parameters of the beta distribution of a blend's shares: nearly halves
_CENTRE = (0.25, 0.75)  # where the point may lie, as shares of height and width
_VISIBLE = 0.1  # a box that keeps less of its area is dropped
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
        else:
            others = [draws.randrange(len(self._dataset)) for _ in range(PARTS - 1)]
            made = self._composed(draw, [draw.sample, *others], "first")
            if draws.random() < self._augment.mosaic_mixup:
                more = [draws.randrange(len(self._dataset)) for _ in range(PARTS)]
                others += more
                made = _blended(made, self._composed(draw, more, "second"), draws.betavariate(_BLEND, _BLEND))
        return made | {OTHERS: torch.tensor(others + [-1] * (_MOST_OTHERS - len(others)))}

    def _loaded(self, epoch: int, sample: int) -> Mapping[str, Any]:
        seed_loading(key(self._seed, "load", epoch, sample))
        return learnt(self._dataset[sample])

    def _composed(self, draw: Draw, samples: Sequence[int], which: str) -> Sample:
        parts = [self._loaded(draw.epoch, sample) for sample in samples]
        torch.default_generator.manual_seed(key(self._seed, "mosaic", which, draw.epoch, draw.sample))
        return mosaic(parts, self._size, self._augment.mosaic_scale, self._fill)


def _blended(one: Sample, other: Sample, share: float) -> Sample:
    """Two pictures as one, with the objects of both."""
    image = one["image"].float() * share + other["image"].float() * (1 - share)
    integral = not one["image"].is_floating_point()
    joined = {name: torch.cat([one[name], other[name]]) for name in one if name != "image"}
    return joined | {"image": image.round().to(one["image"].dtype) if integral else image}


def mosaic(parts: Sequence[Mapping[str, Any]], size: tuple[int, int], scale: tuple[float, float], fill: Fill) -> Sample:
    """Four samples as one; the random numbers are from torch's global generator.

    Args:
        parts: `image` [C, h, w] of any sizes and one type, `boxes` [n, 4], `labels` [n], optionally `masks` [n, h, w].
        size: height and width of the result.
        scale: factors to choose from; at 1, an image fits the full result.
        fill: the fill between the images.

    Returns:
        `image` [C, *size], `boxes` [N, 4], `labels` [N], and `masks` [N, *size] if all parts have them.
    """
    height, width = size
    factor, row, column = (float(torch.empty(()).uniform_(*limits)) for limits in (scale, _CENTRE, _CENTRE))
    centre_y, centre_x = round(row * height), round(column * width)
    first = parts[0]["image"]
    canvas = _ground(first, size, fill)
    boxes, labels, masks = [], [], []
    for place, part in enumerate(parts):
        image = part["image"]
        ratio = factor * min(height / image.shape[-2], width / image.shape[-1])
        new = max(1, round(image.shape[-2] * ratio)), max(1, round(image.shape[-1] * ratio))
        top = centre_y - new[0] if place < 2 else centre_y
        left = centre_x - new[1] if place % 2 == 0 else centre_x
        _paste(canvas, resize(tv_tensors.Image(image), new).as_subclass(Tensor), top, left)
        stretch = part["boxes"].new_tensor([new[1] / image.shape[-1], new[0] / image.shape[-2]] * 2)
        moved = part["boxes"] * stretch + part["boxes"].new_tensor([left, top, left, top])
        kept, clipped = _kept(moved, size)
        boxes.append(clipped[kept])
        labels.append(part["labels"][kept])
        if "masks" in part:
            ground = torch.zeros(int(kept.sum()), height, width, dtype=torch.bool)
            _paste(ground, resize(tv_tensors.Mask(part["masks"][kept]), new).as_subclass(Tensor), top, left)
            masks.append(ground)
    found = {"image": canvas, "boxes": torch.cat(boxes), "labels": torch.cat(labels)}
    return found | ({"masks": torch.cat(masks)} if len(masks) == len(parts) else {})


def _ground(image: Tensor, size: tuple[int, int], fill: Fill) -> Tensor:
    colour = torch.tensor(fill.of(image), dtype=image.dtype).view(-1, 1, 1)
    return colour.expand(image.shape[0], *size).clone()


def _paste(canvas: Tensor, image: Tensor, top: int, left: int) -> None:
    """Pastes the visible part of an image into the canvas. Shape: [..., H, W] and [..., h, w]."""
    height, width = canvas.shape[-2:]
    bottom, right = min(height, top + image.shape[-2]), min(width, left + image.shape[-1])
    to_top, to_left = max(0, top), max(0, left)
    if to_top < bottom and to_left < right:
        canvas[..., to_top:bottom, to_left:right] = image[..., to_top - top : bottom - top, to_left - left : right - left]


def _kept(boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which boxes remain visible, and all of them clipped to the canvas."""
    height, width = size
    clipped = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    sides, before = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
    share = sides.prod(dim=1) / before.prod(dim=1).clamp(min=1e-9)
    return (sides.amin(dim=1) >= _SMALLEST) & (share >= _VISIBLE), clipped
