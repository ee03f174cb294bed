"""Dynamic loss scaling for fp16: gradients too small for its exponent are scaled up, and steps that overflow are skipped.

Micikevicius et al., Mixed Precision Training, ICLR 2018 (arXiv:1710.03740), section 3.2. torch's GradScaler does the same for
gradients that a rank holds in full; this one also serves sharded gradients, and keeps its state in plain numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from phalanx.configs.errors import TrainingFailed
from phalanx.dist.host_copy import HostCopies


class LossScale:
    """The factor on a loss before its backward; a power of two if it starts as one, so that no bits are lost.

    Attributes:
        value: the scale.
    """

    def __init__(self, start: float, window: int):
        self.value, self._window, self._good_steps = start, window, 0

    def unscale(self, gradients: Sequence[Tensor], sum_of_parts: Callable[[Tensor], Tensor]) -> bool:
        """Divides gradients by the scale in place; returns whether any rank's overflowed. Waits for the device.

        Args:
            gradients: this rank's shards.
            sum_of_parts: the sum of a 0-dimensional tensor over the ranks that hold shards of a gradient.
        """
        gradients = [g for g in gradients if g.numel()]
        found = torch.zeros((), device=gradients[0].device if gradients else None)
        if gradients:
            torch._foreach_mul_(gradients, 1 / self.value)
            largest = torch.stack(torch._foreach_norm(gradients, ord=float("inf")))
            found = (~torch.isfinite(largest)).any().float()
        return bool(HostCopies([sum_of_parts(found)]).read()[0])

    def adjust(self, overflowed: bool) -> None:
        """Halves the scale after an overflow; doubles it after `window` steps without one.

        Raises:
            TrainingFailed: if even a scale of 1 overflows.
        """
        self._good_steps = 0 if overflowed else self._good_steps + 1
        if overflowed:
            if self.value <= 1:
                raise TrainingFailed(
                    "the gradients overflow fp16 even with a loss scale of 1. Look at the loss, lower optim.lr, or train with "
                    "dist.precision=bf16 (another experiment)."
                )
            self.value /= 2
        elif self._good_steps == self._window:
            self.value, self._good_steps = self.value * 2, 0

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "good_steps": self._good_steps}

    def from_json(self, stored: dict[str, Any]) -> None:
        self.value, self._good_steps = float(stored["value"]), int(stored["good_steps"])
