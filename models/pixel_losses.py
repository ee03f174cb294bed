"""Losses over full images: Dice; and the selection of hard pixels, for losses that count only these."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from phalanx.models.losses import dense

_IGNORED = -100
_TINY = 1e-12


@dataclass(frozen=True)
class Dice:
    """Soft Dice: one minus the overlap of probabilities and mask, which a class of few pixels counts in as much as one of many.

    V-Net, Milletari et al., 3DV 2016 (arXiv:1606.04797), section 3: of the pixels of one image,
    `D = 2 sum_i p_i g_i / (sum_i p_i^2 + sum_i g_i^2)`; here with a number added above and below, so that an image without the
    class is not 0/0. It is computed for each image by itself, over the pixels that are known, and its mean taken over images:
    so it depends on no batch, and on no rank.

    Attributes:
        classes: their number.
        probabilities: of one class among all, by softmax; or of each for itself, by sigmoid.
        per_class: the mean over the classes that the image's mask has; else of the second class alone, as in the paper.
        smooth: what is added above and below.
    """

    classes: int
    probabilities: Literal["softmax", "sigmoid"] = "softmax"
    per_class: bool = True
    smooth: float = 1.0

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        """The sum over images. Shape: [B, classes, H, W] and integers [B, H, W], negative where unknown."""
        given = logits.softmax(dim=1) if self.probabilities == "softmax" else logits.sigmoid()
        labels, known = dense(target, self.classes, given.dtype)
        given = given * known
        if not self.per_class:
            given, labels = given[:, 1:2], labels[:, 1:2]
        both = (given * labels).flatten(2).sum(dim=2)  # [B, classes]
        squares = (given.square() + labels).flatten(2).sum(dim=2)  # a label is its own square
        score = (2 * both + self.smooth) / (squares + self.smooth).clamp(min=_TINY)
        if self.per_class:
            there = labels.flatten(2).amax(dim=2)  # [B, classes] of 0 and 1
            score = (score * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
        return ((1 - score.reshape(len(score))) * _known_images(target)).sum()

    def weight(self, target: Tensor) -> Tensor:
        """Images with a pixel that is known: 0-dimensional, float64."""
        return _known_images(target).sum(dtype=torch.float64)


def _known_images(target: Tensor) -> Tensor:
    return (target >= 0).flatten(1).any(dim=1)


def hard_pixels(logits: Tensor, target: Tensor, threshold: float, keep: float) -> Tensor:
    """The target, with pixels that are easy already made unknown: online hard example mining.

    Shrivastava et al., CVPR 2016 (arXiv:1604.03540); of pixels: Wu et al., arXiv:1604.04339. A pixel is hard where its own
    class has a probability (softmax) below a threshold, or where it is among a share of the image's least probable ones. The
    choice is made in each image by itself, so that it depends on no batch, and on no rank.

    Args:
        threshold: of the probability, between 0 and 1.
        keep: least share of an image's known pixels that count, between 0 and 1.

    Shape: [B, classes, H, W] and integers [B, H, W], negative where unknown, to [B, H, W].
    """
    with torch.no_grad():
        known = (target >= 0).flatten(1)
        entropy = F.cross_entropy(logits, target.long().masked_fill(target < 0, _IGNORED), reduction="none")
        probability = entropy.neg().exp().flatten(1).masked_fill(~known, torch.inf)  # [B, H * W]
        least = (known.sum(dim=1, keepdim=True, dtype=torch.float64) * keep).ceil().long()  # [B, 1]
        last = probability.sort(dim=1).values.gather(1, (least - 1).clamp(min=0))
        hard = (probability < threshold) | ((probability <= last) & (least > 0))
        return target.masked_fill(~(hard & known).reshape(target.shape), -1)
