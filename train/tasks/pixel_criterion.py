"""The losses of segmentation: `loss.name` and those of `loss.add`, with the recipe's weights."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from phalanx.configs.sections.loss import LossConfig
from phalanx.models.losses import BinaryCrossEntropy, CrossEntropy, Loss
from phalanx.models.pixel_losses import Dice, hard_pixels
from phalanx.train.tasks import DataInfo
from phalanx.train.tasks.criterion import criterion
from phalanx.train.tasks.own_loss import label

Probabilities = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class WeightedLoss:
    """One of the losses, with its weight.

    Attributes:
        factor: its weight in the sum.
        threshold, keep: of `hard_pixels`; None if all pixels count.
    """

    name: str
    loss: Loss
    factor: float = 1.0
    threshold: float | None = None
    keep: float = 0.0

    @property
    def depends_on_predictions(self) -> bool:
        """Whether its divisor is known only after the forward."""
        return self.threshold is not None

    def of(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Its sum, times its factor, and its weight."""
        if self.threshold is not None:
            target = hard_pixels(logits, target, self.threshold, self.keep)
        return self.loss.total(logits, target) * self.factor, self.loss.weight(target)

    def without_training(self) -> "WeightedLoss":
        """The loss in evaluation: over all pixels, and without label smoothing, which would distort it."""
        smoothed = isinstance(self.loss, CrossEntropy | BinaryCrossEntropy)
        loss = replace(self.loss, label_smoothing=0.0) if smoothed else self.loss  # type: ignore[type-var]
        return replace(self, loss=loss, threshold=None)


def pixel_criterion(config: LossConfig, data: DataInfo, outputs: int) -> tuple[WeightedLoss, ...]:
    """The configured losses, `loss.name` first.

    Args:
        outputs: number of the network's outputs.

    Raises:
        UserError: if a loss does not fit the data.
    """
    return tuple(_parts(config, data, outputs))


def _parts(config: LossConfig, data: DataInfo, outputs: int) -> Iterator[WeightedLoss]:
    for name, factor in {config.name: 1.0, **config.add}.items():
        loss = criterion(config.model_copy(update={"name": name}), data, outputs)
        if isinstance(loss, Dice):
            loss = replace(loss, probabilities=probabilities(config))
        threshold = config.ohem_threshold if name == "cross_entropy" else None
        yield WeightedLoss(label(name), loss, factor, threshold, config.ohem_keep)


def probabilities(config: LossConfig) -> Probabilities:
    """The function from outputs to probabilities, by the first loss."""
    return "sigmoid" if config.name in ("bce", "focal") else "softmax"
