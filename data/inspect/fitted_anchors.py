"""Anchors for YOLOv3 and v5, fitted to the boxes of a recipe's training data.

Dimension clusters: Redmon and Farhadi, YOLO9000, arXiv:1612.08242, section 2, k-means with 1 - IoU as distance.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.data.loading.loader import Samples
from phalanx.data.transforms.mosaic_loading import mosaics
from phalanx.data.transforms.pipeline import Statistics, pipeline
from phalanx.dist.microbatches.randomness import key
from phalanx.dist.microbatches.sampler import Draw

COUNT = 9
_LOOKED_AT = 2000  # samples
_ROUNDS = 300
LARGEST_RATIO = 4.0  # of a box's side to an anchor's, or the inverse, for it to be learnt


@dataclass(frozen=True)
class FittedAnchors:
    """Anchors, and how well they fit the boxes.

    Attributes:
        anchors: width and height in integer pixels, the smallest first.
        boxes, samples: the number of those used.
        iou: mean IoU of a box with its best anchor, both around the same centre.
        learnt: share of the boxes that some anchor can learn.
    """

    anchors: list[tuple[int, int]]
    boxes: int
    samples: int
    iou: float
    learnt: float

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"anchors": [list(pair) for pair in self.anchors]}

    def lines(self) -> list[str]:
        """For a terminal."""
        flat = ",".join(f"{width},{height}" for width, height in self.anchors)
        found = f"anchors    fitted to {self.boxes:,} boxes of {self.samples:,} samples at the network's input size"
        return [
            f"{found}: mean IoU {self.iou:.3f}, {self.learnt:.1%} can be learnt",
            f"           model.options.anchors=[{flat}]",
        ]


def fitted_anchors(config: RunConfig, dataset: Dataset, statistics: Statistics | None = None) -> FittedAnchors:
    """Fits nine anchors to the boxes of the first epoch at the network's input size, augmented, of at most 2,000 samples.

    Raises:
        UserError: if there are fewer boxes than anchors.
    """
    if dataset_info.kind(dataset) != "detection":
        raise UserError(
            f"data.name={config.data.name}: anchors are fitted to boxes, and this data is for {dataset_info.kind(dataset)}."
        )
    seen = pipeline(config.data, dataset, "train", statistics)
    samples = Samples(dataset, seen, config.seed, mosaics(config, dataset, seen))
    generator = torch.Generator().manual_seed(key(config.seed, "anchors"))
    chosen = torch.randperm(len(dataset), generator=generator)[:_LOOKED_AT].sort().values.tolist()
    boxes = torch.cat([samples[Draw(0, number)]["boxes"] for number in chosen]).double()
    sides = boxes[:, 2:] - boxes[:, :2]
    if len(sides) < COUNT:
        raise UserError(f"data.name={config.data.name}: {len(sides)} boxes are too few to fit {COUNT} anchors to.")
    anchors = clusters(sides, COUNT).round().clamp(min=1)
    pairs = [(int(width), int(height)) for width, height in anchors.tolist()]
    return FittedAnchors(pairs, len(sides), len(chosen), *quality(sides, anchors))


def quality(sides: Tensor, anchors: Tensor) -> tuple[float, float]:
    """Mean IoU with the best anchor, and the share of boxes that some anchor can learn.

    Args:
        sides: [n, 2], width and height.
        anchors: [k, 2].
    """
    ratio = sides[:, None] / anchors
    near = torch.maximum(ratio, 1 / ratio).amax(dim=-1).amin(dim=-1) < LARGEST_RATIO
    return overlap(sides, anchors).amax(dim=1).mean().item(), near.double().mean().item()


def overlap(sides: Tensor, anchors: Tensor) -> Tensor:
    """IoU [n, k] of boxes [n, 2] and anchors [k, 2] around one centre."""
    shared = torch.minimum(sides[:, None], anchors).prod(dim=-1)
    return shared / (sides.prod(dim=-1)[:, None] + anchors.prod(dim=-1) - shared)


def clusters(sides: Tensor, count: int) -> Tensor:
    """Means [count, 2] of the clusters, the smallest area first. They start at even quantiles of area, without random numbers.

    Args:
        sides: float64 [n, 2], n at least `count`.
    """
    by_area = sides[sides.prod(dim=-1).argsort(stable=True)]
    places = [math.floor((number + 0.5) * len(sides) / count) for number in range(count)]
    means = by_area[places].clone()
    nearest = torch.full((len(sides),), -1)
    for _ in range(_ROUNDS):
        before, nearest = nearest, overlap(sides, means).argmax(dim=1)
        if torch.equal(before, nearest):
            break
        for cluster in range(count):
            members = sides[nearest == cluster]
            if len(members):  # an empty cluster keeps its place
                means[cluster] = members.mean(dim=0)
    return means[means.prod(dim=-1).argsort(stable=True)]
