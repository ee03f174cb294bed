"""From the section `loss` of a recipe to a loss of `models/losses.py`, with class weights from the data's frequencies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import is_own
from phalanx.configs.sections.loss import LossConfig
from phalanx.models.losses import BinaryCrossEntropy, CrossEntropy, Distance, Focal, Loss
from phalanx.models.pixel_losses import Dice
from phalanx.train.tasks import DataInfo
from phalanx.train.tasks.own_loss import own_loss

SEVERAL_LABELS = ("bce", "focal", "mse", "l1")


def criterion(config: LossConfig, data: DataInfo, outputs: int) -> Loss:
    """The configured loss.

    Args:
        outputs: number of the network's outputs, at least that of the classes.

    Raises:
        UserError: if the loss does not fit the data, or there is not one weight per class.
    """
    if is_own(config.name):
        return own_loss(config)
    several = data.kind == "multilabel"
    if several and config.name not in SEVERAL_LABELS:
        raise UserError(
            f"loss.name={config.name}: the images of this data have several labels, and {config.name} takes one. "
            f"Set loss.name to one of {', '.join(SEVERAL_LABELS)}."
        )
    weights = _class_weights(config, data, outputs)
    match config.name:
        case "cross_entropy":
            return CrossEntropy(weights, config.label_smoothing, config.count_ignored)
        case "bce":
            positive = _pos_weight(config, data, outputs)
            return BinaryCrossEntropy(outputs, weights, positive, config.label_smoothing, config.target_threshold)
        case "focal":
            return Focal(outputs, config.focal_gamma, config.focal_alpha, weights)
        case "dice":
            if not config.dice_per_class and outputs != 2:
                raise UserError(f"loss.dice_per_class=false is for two classes, and there are {outputs}. Set it to true.")
            return Dice(outputs, "softmax", config.dice_per_class, config.dice_smooth)
        case _:  # mse, l1; the others are refused before, as losses of regression
            return Distance(outputs, 2 if config.name == "mse" else 1, "sigmoid" if several else "softmax", weights)


def _class_weights(config: LossConfig, data: DataInfo, outputs: int) -> Tensor | None:
    """Balanced: `samples / (classes * samples of the class)`, mean 1 over the samples; 0 for a class without samples."""
    if config.class_weights is None:
        return None
    if config.class_weights != "balanced":
        return _numbers("loss.class_weights", config.class_weights, data, outputs)
    counts = _counts("loss.class_weights", data)
    there = [count for count in counts if count]
    weights = [sum(there) / (len(there) * count) if count else 0.0 for count in counts]
    return _padded(weights, outputs, 0.0)


def _pos_weight(config: LossConfig, data: DataInfo, outputs: int) -> Tensor | None:
    """Balanced: samples (pixels) without the label over those with it; 1 for a label without samples."""
    if config.pos_weight is None:
        return None
    if config.pos_weight != "balanced":
        return _numbers("loss.pos_weight", config.pos_weight, data, outputs)
    counts = _counts("loss.pos_weight", data)
    total = data.samples if data.kind == "multilabel" else sum(counts)
    weights = [(total - count) / count if count else 1.0 for count in counts]
    return _padded(weights, outputs, 1.0)


def _counts(key: str, data: DataInfo) -> Sequence[int]:
    if data.class_counts is None:
        raise UserError(
            f"{key}=balanced: this data does not report the samples per class. Give its class a method class_counts, "
            "or set a list of numbers, one per class."
        )
    return data.class_counts


def _numbers(key: str, numbers: Sequence[float], data: DataInfo, outputs: int) -> Tensor:
    if len(numbers) != outputs:
        raise UserError(
            f"{key} has {len(numbers)} numbers, but there are {outputs} classes. Give one for each, in this order: "
            f"{', '.join(data.classes[:12])}{', ...' if len(data.classes) > 12 else ''}."
        )
    return torch.tensor(numbers, dtype=torch.float64)


def _padded(weights: Sequence[float], outputs: int, value: float) -> Tensor:
    """Extends the weights to outputs beyond the data's classes."""
    return torch.tensor([*weights, *[value] * (outputs - len(weights))], dtype=torch.float64)
