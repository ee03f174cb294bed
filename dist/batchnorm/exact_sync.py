"""Synchronized BatchNorm with the same bits on any number of ranks (`dist.reduce=exact` with `dist.sync_bn`).

No micro-batch is merged with another: each gives its own count, mean and sum of squared deviations, by its own kernel on its
own values, and one tree over the numbers of the micro-batches combines them (Chan, Golub and LeVeque, Updating formulae, 1979,
equation 2.1). The two sums of the backward (Ioffe and Szegedy, ICML 2015, arXiv:1502.03167, section 3) go through the same
tree. Floating point sums depend on their order; this one depends on the number of micro-batches alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from phalanx.dist.batchnorm.affine import affine
from phalanx.dist.batchnorm.groups import StatsGroup
from phalanx.dist.batchnorm.recomputed import Kept
from phalanx.dist.batchnorm.sync_batchnorm import memory_layout, parameter_type
from phalanx.dist.comm.collectives import all_gather_flat


def combine_by_tree(rows: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combines siblings from left to right, level by level; an odd one out rises unchanged. Shape: [N, ...] to [...].

    Args:
        combine: works row by row, on all pairs of a level at once.
    """
    while len(rows) > 1:
        pairs = combine(rows[0:-1:2], rows[1::2])
        rows = torch.cat([pairs, rows[-1:]]) if len(rows) % 2 else pairs
    return rows[0]


def _chan(left: Tensor, right: Tensor) -> Tensor:
    """Count, mean and sum of squared deviations of two samples together; each `[pairs, 3, C]`."""
    (count, mean, deviation), (more, other_mean, other_deviation) = left.unbind(1), right.unbind(1)
    total = count + more
    difference, share = other_mean - mean, more / total.clamp(min=1)
    deviation = deviation + other_deviation + difference.square() * (count * share)
    return torch.stack([total, mean + difference * share, deviation], dim=1)


def rows_of_all(own: Tensor, group: ProcessGroup | None, sizes: Sequence[int]) -> Tensor:
    """A row of each micro-batch of a stats group, in their order, from those of each of its ranks, `[micro-batches, ...]`."""
    if group is None:
        return own
    most = max(sizes)
    if len(own) < most:
        own = torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])])
    everyone = own.new_empty(len(sizes) * most, *own.shape[1:])
    all_gather_flat(everyone, own, group=group)
    if min(sizes) == most:
        return everyone
    return torch.cat([rows[:size] for rows, size in zip(everyone.split(most), sizes, strict=True)])


def _moments(inputs: Sequence[Tensor]) -> Tensor:
    """Count, mean and sum of squared deviations of each micro-batch, [micro-batches, 3, C]."""
    wide, channels = torch.promote_types(inputs[0].dtype, torch.float32), inputs[0].shape[1]
    nothing = torch.zeros(channels, dtype=wide, device=inputs[0].device)
    rows = []
    for x in inputs:
        if values := x.numel() // channels:
            # The two buffers only set the type of the results.
            mean, variance = torch.batch_norm_update_stats(x, nothing, nothing, 0.0)
            rows += [torch.full_like(nothing, values), mean, variance.mul_(values)]
        else:
            rows += [nothing] * 3
    return torch.stack(rows).view(len(inputs), 3, channels)


class _ExactlySynchronizedNorm(torch.autograd.Function):
    """Normalises several micro-batches, each by itself, with the statistics of their stats group.

    One function takes all of them, so that its backward waits until each has come to it.

    Shape: inputs [B, C, ...]; weights, biases [C] or None. Returns the outputs, shaped as the inputs; mean and unbiased
    variance [C].
    """

    @staticmethod
    def forward(
        ctx: Any, stats_group: StatsGroup, eps: float, kept: Sequence[Kept] | None, count: int, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        inputs: Sequence[Any] = tensors[:count]
        weights, biases = tensors[count : 2 * count], tensors[2 * count :]
        total, mean, deviation = combine_by_tree(rows_of_all(_moments(inputs), stats_group.group, stats_group.sizes), _chan)
        inverse = torch.rsqrt(deviation / total + eps)
        scale = inverse if weights[0] is None else inverse * weights[0]
        shift = -mean * scale if biases[0] is None else biases[0] - mean * scale
        ctx.save_for_backward(scale, mean, inverse, total, *(inputs if kept is None else ()))
        ctx.kept, ctx.count = kept, count
        ctx.ranks = stats_group.group, stats_group.sizes
        ctx.weight_type, ctx.bias_type = parameter_type(weights[0]), parameter_type(biases[0])
        unbiased = deviation / (total - 1)
        for each in kept or ():
            of_call = each.statistics
            of_call.scale, of_call.shift, of_call.mean, of_call.variance = scale, shift, mean.clone(), unbiased.clone()
        ctx.mark_non_differentiable(mean, unbiased)
        return (*[affine(x, scale, shift) for x in inputs], mean, unbiased)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Any, ...]:
        scale, mean, inverse, total, *inputs = ctx.saved_tensors
        count, inputs = ctx.count, inputs if ctx.kept is None else [each.input() for each in ctx.kept]
        gradients, rows = list(given[:count]), []  # of the outputs; of bias and weight
        for number, x in enumerate(inputs):
            if x.numel():
                gradients[number] = gradients[number].contiguous(memory_format=memory_layout(x))
                asked = [False, True, True]  # of input, weight and bias
                _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                    gradients[number], x, scale, None, None, mean, inverse, True, 0.0, asked
                )
                rows += [of_bias, of_weight]
            else:
                rows += [torch.zeros_like(mean)] * 2
        own = torch.stack(rows).view(count, 2, len(mean))
        mean_gradient, mean_along = combine_by_tree(rows_of_all(own, *ctx.ranks), torch.add) / total
        along = -scale * inverse * mean_along
        shift = -scale * mean_gradient - along * mean
        of_inputs = [
            affine(x, along, shift).add_(affine(gradient, scale, torch.zeros_like(scale)))
            for x, gradient in zip(inputs, gradients, strict=True)
        ]
        of_weights = [None if ctx.weight_type is None else row[1].to(ctx.weight_type) for row in own]
        of_biases = [None if ctx.bias_type is None else row[0].to(ctx.bias_type) for row in own]
        return None, None, None, None, *of_inputs, *of_weights, *of_biases


def normalise(
    stats_group: StatsGroup,
    eps: float,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor | None],
    biases: Sequence[Tensor | None],
    kept: Sequence[Kept] | None = None,
) -> tuple[Sequence[Tensor], Tensor, Tensor]:
    """The normalised micro-batches of this rank, and the mean and unbiased variance [C] of the stats group.

    Args:
        inputs: a micro-batch's values each, [B, C, ...].
        weights, biases: [C], a micro-batch's each: equal values, with gradients of their own.
        kept: where the backward finds the inputs, if activation checkpointing drops them.
    """
    count = len(inputs)
    *outputs, mean, variance = _ExactlySynchronizedNorm.apply(stats_group, eps, kept, count, *inputs, *weights, *biases)
    return outputs, mean, variance
