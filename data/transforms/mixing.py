"""MixUp and CutMix: each sample of a micro-batch mixed with its neighbour.

Random numbers are a function of (seed, step, the micro-batch's sample ids): the same on any rank, before and after a resume.
"""

import math
import random
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.dist.microbatches.randomness import key

MicroBatch = dict[str, Any]


def mixing(config: RunConfig, dataset: Dataset) -> "Mixing | None":
    """The recipe's mixing, if any.

    Raises:
        UserError: if there is nothing to mix: labels that are not classes, or micro-batches of one sample.
    """
    augment = config.data.augment
    if not augment.mixup and not augment.cutmix:
        return None
    name = "mixup" if augment.mixup else "cutmix"
    kind = dataset_info.kind(dataset)
    if kind not in ("classification", "multilabel"):
        raise UserError(f"data.augment.{name} mixes image classes, which {kind} does not have. Set it to 0.", True)
    if config.train.micro_batch < 2:
        raise UserError(
            f"data.augment.{name} mixes samples of a micro-batch, but train.micro_batch=1. Set it to 2 or more, or {name}=0.",
            shared=True,
        )
    return Mixing(augment.mixup, augment.cutmix, config.model.num_classes or len(dataset.classes), config.seed)


class Mixing:
    """MixUp (Zhang et al., arXiv:1710.09412) and CutMix (Yun et al., arXiv:1905.04899).

    With a share s from Beta(alpha, alpha), sample i becomes s of itself and 1 - s of sample i - 1 (cyclically): blended, or
    with a rectangle of that area from the other; the targets likewise. If both are enabled, each micro-batch gets one of them,
    with equal probability.

    Args:
        mixup, cutmix: their alpha; 0 for off.
        classes: the length of a target.
        seed: the experiment's.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int, seed: int):
        self._mixup, self._cutmix, self._classes, self._seed = mixup, cutmix, classes, seed

    def __call__(self, step: int, batch: MicroBatch) -> MicroBatch:
        """A micro-batch mixed.

        Shape: `image` [m, C, H, W]; `target` [m] of classes, or [m, classes], to float32 [m, classes]. An ignored
        target below 0 becomes zeros.
        """
        draws = random.Random(key(self._seed, "mix", step, *batch["id"].tolist()))
        image, target = batch["image"], self._probabilities(batch["target"])
        if self._cutmix and (not self._mixup or draws.random() < 0.5):
            share = draws.betavariate(self._cutmix, self._cutmix)
            image, share = _cut(image, share, draws)
        else:
            share = draws.betavariate(self._mixup, self._mixup)
            image = _blend(image, share)
        return batch | {"image": image, "target": _blend(target, share)}

    def _probabilities(self, target: Tensor) -> Tensor:
        if target.dim() == 2:
            return target.float()
        counted = target >= 0
        return F.one_hot(target.clamp(min=0), self._classes).float() * counted.unsqueeze(1)


def _blend(values: Tensor, share: float) -> Tensor:
    """Two products and a sum, each rounded: a fused operation rounds differently at the end of a thread's part."""
    return values.roll(1, 0).mul_(1 - share).add_(values * share)


def _cut(image: Tensor, share: float, draws: random.Random) -> tuple[Tensor, float]:
    """A rectangle of 1 - `share` of the area, around any pixel, from the previous sample; and the remaining share."""
    height, width = image.shape[-2:]
    row, column, half = draws.randrange(height), draws.randrange(width), 0.5 * math.sqrt(1 - share)
    top, bottom = max(0, row - int(half * height)), min(height, row + int(half * height))
    left, right = max(0, column - int(half * width)), min(width, column + int(half * width))
    mixed = image.clone()
    mixed[..., top:bottom, left:right] = image.roll(1, 0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
