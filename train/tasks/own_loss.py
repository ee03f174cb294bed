"""A user's own loss: a class with sums and weights, or a function of each sample."""

import inspect
from typing import Any

import torch
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import is_own, load_own
from phalanx.configs.sections.loss import LossConfig
from phalanx.models.losses import Loss


def label(name: str) -> str:
    """The name of a loss in logs: of a user's own, that of its class."""
    return name.rpartition(":")[2] if is_own(name) else name


def own_loss(config: LossConfig) -> Loss:
    """The loss of `./file.py:name`.

    A class is called with `loss.options`, and has the two methods of `phalanx.models.losses.Loss`. A function is called as
    `function(logits, target, **loss.options)` and returns the loss of each sample [B], or of each pixel [B, H, W]; the mean is
    taken over samples, or pixels, whose target is not negative.

    Raises:
        UserError: if it is neither, or does not take the options.
    """
    made: Any = load_own("loss.name", config.name)
    given = () if isinstance(made, type) else (None, None)
    try:
        inspect.signature(made).bind(*given, **config.options)
    except TypeError as error:
        raise UserError(f"loss.name={config.name}: {error}. Correct loss.options, or its arguments.") from None
    if not isinstance(made, type):
        return _OfEach(config.name, made, config.options)
    loss: Loss = made(**config.options)
    if not all(callable(getattr(loss, method, None)) for method in ("total", "weight")):
        raise UserError(
            f"loss.name={config.name}: a class needs the methods total(logits, target), the sum over the batch, and "
            "weight(target), what the sum is divided by. Add them, or name a function that returns the loss of each sample."
        )
    return loss


class _OfEach:
    """The loss of a function that returns one for each sample or pixel."""

    def __init__(self, name: str, function: Any, options: dict[str, Any]):
        self._name, self._function, self._options = name, function, options

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        found: Tensor = self._function(logits, target, **self._options)
        shape = target.shape[:1] if target.is_floating_point() else target.shape
        if not isinstance(found, Tensor) or found.shape != shape:
            given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"loss.name={self._name}: it returned {given} for targets {list(target.shape)}. Return the loss of each, "
                f"{list(shape)}, without taking the mean.",
                shared=True,
            )
        return found.sum() if target.is_floating_point() else torch.where(target >= 0, found, 0.0).sum()

    def weight(self, target: Tensor) -> Tensor:
        if target.is_floating_point():
            return torch.tensor(float(len(target)), dtype=torch.float64, device=target.device)
        return (target >= 0).sum(dtype=torch.float64)
