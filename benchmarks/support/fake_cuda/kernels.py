"""Kernels that only CUDA has, by the formulas: those of torch's SyncBatchNorm."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """Values of channels, to be combined with [B, C, ...]."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), _all_but_channels(x), unbiased=False)
    return mean, torch.rsqrt(variance + eps)


def _gathered(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    count = counts.view(-1, 1).to(mean.dtype)
    total = count.sum()
    joint = (mean * count).sum(0) / total
    squares = ((1 / invstd.square() - eps + (mean - joint).square()) * count).sum(0)
    if running_mean is not None:
        running_mean.mul_(1 - momentum).add_(joint.to(running_mean.dtype) * momentum)
    if running_var is not None:
        running_var.mul_(1 - momentum).add_((squares / (total - 1)).to(running_var.dtype) * momentum)
    return joint, torch.rsqrt(squares / total + eps)


def _normalised(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
    y = (x - _beside(mean, x)) * _beside(invstd, x)
    if weight is not None:
        y = y * _beside(weight, x)
    return (y if bias is None else y + _beside(bias, x)).to(x.dtype)


def _reduced(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    _input: bool,
    of_weight: bool,
    of_bias: bool,
) -> tuple[Tensor | None, ...]:
    dims = _all_but_channels(x)
    total, product = gradient.sum(dims), (gradient * (x - _beside(mean, x))).sum(dims)
    return total, product, product * invstd if of_weight else None, total if of_bias else None


def _input_gradient(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    total: Tensor,
    product: Tensor,
    count: Tensor,
) -> Tensor:
    n = count.sum().to(total.dtype)
    along = _beside(invstd.square() * product / n, x)
    found = (gradient - _beside(total / n, x) - (x - _beside(mean, x)) * along) * _beside(invstd, x)
    return (found if weight is None else found * _beside(weight, x)).to(x.dtype)


KERNELS: dict[str, Callable[..., Any]] = {
    "batch_norm_stats": _stats,
    "batch_norm_gather_stats_with_counts": _gathered,
    "batch_norm_elemt": _normalised,
    "batch_norm_backward_reduce": _reduced,
    "batch_norm_backward_elemt": _input_gradient,
}
