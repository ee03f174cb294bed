"""Several optimizers as one, for tasks of several phases."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class Joined(torch.optim.Optimizer):
    """Optimizers of different parameters, with one list of groups and one state.

    Each skips parameters without a gradient, so that after a phase's backward only that phase's optimizer changes anything.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self._optimizers = optimizers
        for optimizer in optimizers:
            optimizer.state = self.state

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for optimizer in self._optimizers:
            if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
                optimizer.step()
