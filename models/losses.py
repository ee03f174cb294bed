"""Losses of samples, and of pixels, each as a sum over a batch and the weight that the sum is to be divided by.

The two are kept apart because a global batch is larger than what a device sees: sums and weights of all its parts are added
first, and divided once. Each loss divided by its weight is torch's own mean, except for focal, as stated there.

Targets are integers `[B]`, the class of each sample, of which negative ones are ignored; or floating point numbers
`[B, classes]`: probabilities of the classes, as from MixUp, or several labels of 0 and 1, of which negative ones are unknown
and ignored. All but `Distance` also take pixels, each as a sample: logits `[B, classes, H, W]`, targets
`[B, H, W]` of integers.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from phalanx.models.device_constants import constant

_IGNORED = -100  # torch's own ignore_index


class Loss(Protocol):
    """A loss of logits `[B, classes]`, or `[B, classes, H, W]`."""

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        """The sum over the batch, 0-dimensional, in the format of the logits."""
        ...

    def weight(self, target: Tensor) -> Tensor:
        """What the sum is divided by, 0-dimensional, float64, from the targets alone."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy after a softmax: `-sum_c w_c * t_c * log softmax(x)_c`.

    With label smoothing (Szegedy et al., arXiv:1512.00567, section 7) the target `t` is mixed with the uniform one.

    Attributes:
        class_weights: `[classes]`; a sample weighs as its class, so that the mean is torch's weighted mean. Where a target is a
            mixture, so is its weight: `sum_c w_c * t_c` (torch divides those by the number of samples, which is the same
            without class weights).
        label_smoothing: share of the target spread over all classes.
        count_ignored: whether ignored targets, whose loss is 0, count in the mean.
    """

    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    count_ignored: bool = False

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        mixture = target.is_floating_point()
        target = target.to(logits.dtype) if mixture else target.long().masked_fill(target < 0, _IGNORED)
        weights = _like(self.class_weights, logits)
        if logits.dim() == 2:
            return F.cross_entropy(logits, target, weights, reduction="sum", label_smoothing=self.label_smoothing)
        # Of pixels a GPU adds up in any order, unless the sum is another operation.
        return F.cross_entropy(logits, target, weights, reduction="none", label_smoothing=self.label_smoothing).sum()

    def weight(self, target: Tensor) -> Tensor:
        if self.count_ignored and not target.is_floating_point():
            return torch.full((), target.numel(), dtype=torch.float64, device=target.device)
        if self.class_weights is None:
            return (target if target.is_floating_point() else target >= 0).sum(dtype=torch.float64)
        weights = constant(self.class_weights, target.device, torch.float64)
        if target.is_floating_point():
            return (target.double() * weights).sum()
        return (weights[target.clamp(min=0)] * (target >= 0)).sum()


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Binary cross-entropy of every class for itself, after a sigmoid: the mean over samples and classes.

    `-w_c * (p_c * t * log sigmoid(x) + (1 - t) * log(1 - sigmoid(x)))`, of several labels, or of one as 1 among 0.

    Attributes:
        classes: their number.
        class_weights: `w`, `[classes]`; they change the sum, not what it is divided by, as in torch.
        pos_weight: `p`, `[classes]`: how much more a label that is there counts than one that is not.
        label_smoothing: share `s` of the target that is spread over all classes: `(1 - s) * t_c + s / classes`.
        target_threshold: targets above it count as 1 and others as 0, before the smoothing; None: as they are.
    """

    classes: int
    class_weights: Tensor | None = None
    pos_weight: Tensor | None = None
    label_smoothing: float = 0.0
    target_threshold: float | None = None

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        labels, known = dense(target, self.classes, logits.dtype)
        if self.target_threshold is not None:
            labels = (labels > self.target_threshold).to(labels.dtype)
        if self.label_smoothing:
            labels = labels * (1 - self.label_smoothing) + self.label_smoothing / self.classes
        weight = _weighted(known, self.class_weights)
        positive = None if self.pos_weight is None else _of_classes(self.pos_weight, logits)
        return F.binary_cross_entropy_with_logits(logits, labels, weight, pos_weight=positive, reduction="sum")

    def weight(self, target: Tensor) -> Tensor:
        return _entries(target, self.classes)


@dataclass(frozen=True)
class Focal:
    """Focal loss of every class for itself, after a sigmoid: cross-entropy that sure samples hardly count in.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017 (arXiv:1708.02002), equation 5:
    `-alpha_t * (1 - p_t)^gamma * log p_t`, where `p_t` is the probability given to what is true.

    The sum is divided by the number of samples. Where a sample has one label this is the paper's divisor, the number of
    positives; a batch without any label would have none to divide by. A sample with an unknown label weighs in proportion.

    Attributes:
        classes: their number.
        gamma: 0 is binary cross-entropy.
        alpha: weight of labels that are there, and 1 - alpha of those that are not; None for 1 and 1.
        class_weights: `[classes]`, of each class's terms.
    """

    classes: int
    gamma: float = 2.0
    alpha: float | None = None
    class_weights: Tensor | None = None

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        labels, known = dense(target, self.classes, logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        probability = logits.sigmoid()
        wrong = probability * (1 - labels) + (1 - probability) * labels  # 1 - p_t
        terms = entropy * wrong**self.gamma * known
        if self.alpha is not None:
            terms = terms * (self.alpha * labels + (1 - self.alpha) * (1 - labels))
        return _weighted(terms, self.class_weights).sum()

    def weight(self, target: Tensor) -> Tensor:
        return _entries(target, self.classes) / self.classes


@dataclass(frozen=True)
class Distance:
    """Squared (Brier, 1950) or absolute distance between probabilities and labels: the mean over samples and classes.

    Attributes:
        classes: their number.
        power: 2 for the squared distance, 1 for the absolute.
        probabilities: of one class among all, by softmax; or of each for itself, by sigmoid.
        class_weights: `[classes]`, of each class's terms.
    """

    classes: int
    power: Literal[1, 2]
    probabilities: Literal["softmax", "sigmoid"] = "softmax"
    class_weights: Tensor | None = None

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        labels, known = dense(target, self.classes, logits.dtype)
        given = logits.softmax(dim=1) if self.probabilities == "softmax" else logits.sigmoid()
        difference = (given - labels) * known
        terms = difference.square() if self.power == 2 else difference.abs()
        return _weighted(terms, self.class_weights).sum()

    def weight(self, target: Tensor) -> Tensor:
        return _entries(target, self.classes)


def dense(target: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Targets as labels of every class, `[B, classes, ...]`, and 1 where they are known, else 0, of a shape that broadcasts."""
    if target.is_floating_point():
        return target.clamp(min=0).to(dtype), (target >= 0).to(dtype)
    index, known = target.clamp(min=0).long().unsqueeze(1), (target >= 0).unsqueeze(1).to(dtype)
    # Written at once in the format and the place of logits: of pixels these are the largest tensors of all.
    labels = torch.zeros(len(target), classes, *target.shape[1:], dtype=dtype, device=target.device)
    return labels.scatter_(1, index, 1.0).mul_(known), known


def _entries(target: Tensor, classes: int) -> Tensor:
    """How many labels of all samples and classes are known."""
    known = (target >= 0).sum(dtype=torch.float64)
    return known if target.is_floating_point() else known * classes


def _weighted(terms: Tensor, weights: Tensor | None) -> Tensor:
    """Terms `[B, classes, ...]`, each times the weight of its class."""
    return terms if weights is None else terms * _of_classes(weights, terms)


def _of_classes(numbers: Tensor, terms: Tensor) -> Tensor:
    """A number a class, in a shape that broadcasts to terms `[B, classes, ...]`."""
    return constant(numbers, terms.device, terms.dtype).reshape(-1, *[1] * (terms.dim() - 2))


def _like(weights: Tensor | None, logits: Tensor) -> Tensor | None:
    return None if weights is None else constant(weights, logits.device, logits.dtype)
