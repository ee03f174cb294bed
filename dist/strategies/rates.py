"""The optimizer's settings for one update."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple


class Rates(NamedTuple):
    """The settings of one step.

    Attributes:
        learning_rate: of all groups, times the `lr_factor` of each.
        of_biases: the learning rate of groups marked `biases`; None: `learning_rate`.
        momentum: of SGD, or the first beta of Adam; None: unchanged.
        epochs: finished before the update; groups whose `frozen_epochs` are more have a learning rate of 0.
    """

    learning_rate: float
    of_biases: float | None = None
    momentum: float | None = None
    epochs: float = math.inf

    def set(self, groups: Iterable[dict[str, Any]]) -> None:
        """Sets them in an optimizer's groups."""
        for group in groups:
            rate = self.of_biases if self.of_biases is not None and group.get("biases") else self.learning_rate
            group["lr"] = 0.0 if self.epochs < group.get("frozen_epochs", 0.0) else rate * group.get("lr_factor", 1.0)
            if self.momentum is None:
                continue
            if "betas" in group:
                group["betas"] = (self.momentum, group["betas"][1])
            else:
                group["momentum"] = self.momentum
