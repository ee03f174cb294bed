"""L1 and L2 penalties as their gradients, added once per step, just before the optimizer's update and after clipping.

The penalty l1 * sum|w| + l2 / 2 * sum(w^2) has the gradient l1 * sign(w) + l2 * w. Parameters without weight decay
(`optim.no_decay`) have none, for the same reason. Each element is treated by itself, so that it is the same however weights are
cut among ranks.
"""

from typing import Any

import torch
from torch import Tensor


def add(optimizer: torch.optim.Optimizer, l1: float, l2: float) -> None:
    """Lets the optimizer add the gradients of the penalties before each step. Groups with `spared` have none."""
    if l1 or l2:
        optimizer.register_step_pre_hook(lambda own, args, kwargs: _penalise(own, l1, l2))


@torch.no_grad()
def _penalise(optimizer: torch.optim.Optimizer, l1: float, l2: float) -> None:
    for group in optimizer.param_groups:
        if group.get("spared"):
            continue
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            weight, gradient = _held(parameter), _held(parameter.grad)
            if l1:
                gradient.add_(weight.sign(), alpha=l1)
            if l2:
                gradient.add_(weight, alpha=l2)


def _held(tensor: Any) -> Tensor:
    """What this rank holds of a tensor that may be sharded."""
    held: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return held
