"""Adaptive gradient clipping: of each output unit by the norm of its own weights.

Brock et al., High-Performance Large-Scale Image Recognition Without Normalization, ICML 2021 (arXiv:2102.06171), equation 3:
where ||G|| / max(||W||, eps) is above a limit, G is scaled down to it. The norms are those of a unit: of a row of a linear
layer, of a filter of a convolution; of a vector, such as a bias, that of all of it. The paper leaves the last layer alone.
"""

import torch
from torch import Tensor

_LEAST = 1e-3  # of a weight's norm, so that what begins at zero can leave it


def add(optimizer: torch.optim.Optimizer, limit: float) -> None:
    """Lets the optimizer clip gradients before each step. Groups with `no_agc` are left alone."""
    optimizer.register_step_pre_hook(lambda own, args, kwargs: _clip(own, limit))


@torch.no_grad()
def _clip(optimizer: torch.optim.Optimizer, limit: float) -> None:
    for group in optimizer.param_groups:
        if group.get("no_agc"):
            continue
        for parameter in group["params"]:
            if parameter.grad is not None:
                most = _norms(parameter).clamp(min=_LEAST) * limit
                norms = _norms(parameter.grad).clamp(min=1e-6)
                parameter.grad.mul_(torch.clamp(most / norms, max=1.0))


def _norms(tensor: Tensor) -> Tensor:
    """Of each unit, in a shape that broadcasts over the tensor; of a sharded one it is the full parameter's."""
    if tensor.dim() <= 1:
        return torch.linalg.vector_norm(tensor)
    return torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.dim())), keepdim=True)
