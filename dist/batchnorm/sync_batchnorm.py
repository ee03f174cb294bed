"""Synchronized BatchNorm over micro-batches on several ranks, on GPUs and on the CPU.

In the forward it exchanges every rank's count, mean and sum of squared deviations, and combines them (Chan, Golub and
LeVeque, Updating formulae, 1979, equation 2.1); in the backward, the two sums that the gradient of BatchNorm needs (Ioffe and
Szegedy, ICML 2015, arXiv:1502.03167, section 3). Counts may differ, and be zero. Torch's SyncBatchNorm runs on GPUs only, and
lets the host wait for its device three times per layer and forward, to read the counts; this one never does.
"""

from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from phalanx.dist.batchnorm.affine import affine
from phalanx.dist.batchnorm.groups import StatsGroup
from phalanx.dist.batchnorm.recomputed import current_tape

Group = torch.distributed.ProcessGroup


class _SynchronizedNorm(torch.autograd.Function):
    """Normalises with the statistics of all ranks of a group, over all dimensions but the second.

    The passes over all values are torch's own BatchNorm, one pass each, with sums in float32 for half precision values.

    Shape: input [B, C, ...]; weight, bias [C] or None. Returns the output, shaped as the input; mean and unbiased variance [C].
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: Group
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        channels, count = x.shape[1], x.numel() // x.shape[1]
        own = torch.zeros(3, channels, dtype=wide, device=x.device)  # count, mean, sum of squared deviations
        if count:
            # The two buffers only set the type of the results.
            own[1], own[2] = torch.batch_norm_update_stats(x, own[1].clone(), own[2].clone(), 0.0)
            own[2] *= count
            own[0] = count
        everyone = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size(group))]
        torch.distributed.all_gather(everyone, own, group=group)
        counts, means, deviations = torch.stack(everyone, dim=1)  # each [ranks, C]
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        deviation = (deviations + counts * (means - mean).square()).sum(0)
        inverse = torch.rsqrt(deviation / total + eps)
        scale = inverse if weight is None else inverse * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        ctx.save_for_backward(x, scale, mean, inverse, total)
        ctx.group, ctx.weight_type, ctx.bias_type = group, parameter_type(weight), parameter_type(bias)
        unbiased = deviation / (total - 1)
        ctx.mark_non_differentiable(mean, unbiased)
        return affine(x, scale, shift), mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, scale, mean, inverse, total = ctx.saved_tensors
        own = torch.zeros(2, len(mean), dtype=mean.dtype, device=mean.device)  # the gradients of bias and weight
        if x.numel():
            gradient = gradient.contiguous(memory_format=memory_layout(x))
            asked = [False, True, True]  # of input, weight and bias
            reduced = torch.ops.aten.native_batch_norm_backward(gradient, x, scale, None, None, mean, inverse, True, 0.0, asked)
            own[0], own[1] = reduced[2], reduced[1]
        sums = own.clone()
        torch.distributed.all_reduce(sums, group=ctx.group)
        mean_gradient, mean_along = (sums / total).unbind(0)
        along = -scale * inverse * mean_along
        given = affine(x, along, -scale * mean_gradient - along * mean).add_(affine(gradient, scale, torch.zeros_like(scale)))
        of_weight = None if ctx.weight_type is None else own[1].to(ctx.weight_type)
        return given, of_weight, None if ctx.bias_type is None else own[0].to(ctx.bias_type), None, None


def memory_layout(x: Tensor) -> torch.memory_format:
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last and not x.is_contiguous() else torch.contiguous_format


def parameter_type(parameter: Tensor | None) -> torch.dtype | None:
    return None if parameter is None else parameter.dtype


def _alone(layer: _BatchNorm, x: Tensor) -> Tensor:
    """BatchNorm on this rank's values: in evaluation, or where no other rank shares the statistics."""
    if layer.training and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    trains = layer.training or layer.running_mean is None
    updates = not layer.training or layer.track_running_stats
    running = (layer.running_mean, layer.running_var) if updates else (None, None)
    return F.batch_norm(x, *running, layer.weight, layer.bias, trains, _momentum(layer), layer.eps)


def _momentum(layer: _BatchNorm) -> float:
    """The weight of new statistics; without a momentum every batch weighs the same."""
    if layer.momentum is not None:
        return float(layer.momentum)
    return 1 / float(layer.num_batches_tracked) if layer.num_batches_tracked is not None and layer.training else 0.0


class SyncBatchNorm(_BatchNorm):
    """BatchNorm over the stats group of the current forward pass. Shape: [B, C, ...] to the same."""

    stats_group: StatsGroup

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2

    def forward(self, input: Tensor) -> Tensor:
        stats_group = self.stats_group
        if not self.training or (stats_group.group is None and stats_group.wait_for_others is None):
            return _alone(self, input)
        tape = current_tape() if stats_group.wait_for_others is not None else None
        if tape is not None and tape.replays:
            output, mean, variance = tape.replayed(input)
        elif stats_group.wait_for_others is not None:
            input, kept = (input, None) if tape is None else tape.keep(input)
            output, mean, variance = stats_group.wait_for_others(self, input, kept)
        else:
            output, mean, variance = _SynchronizedNorm.apply(input, self.weight, self.bias, self.eps, stats_group.group)
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
                new = _momentum(self)
                self.running_mean.mul_(1 - new).add_(mean.to(self.running_mean.dtype), alpha=new)
                self.running_var.mul_(1 - new).add_(variance.to(self.running_var.dtype), alpha=new)
        return output


def _like(layer: _BatchNorm, kind: type[_BatchNorm]) -> _BatchNorm:
    """The layer converted to another class, with the same parameters and buffers."""
    made = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    made._parameters, made._buffers = layer._parameters, layer._buffers
    return made.train(layer.training)


def convert(model: nn.Module, kind: type[_BatchNorm], only: type[_BatchNorm] = _BatchNorm) -> tuple[nn.Module, list[str]]:
    """Replaces every BatchNorm by a layer of another class, and returns the names of the replaced ones.

    Args:
        model: changed in place, unless it is a BatchNorm itself.
        kind: `SyncBatchNorm`, or `nn.BatchNorm2d` to make statistics local.
        only: which layers; all kinds of BatchNorm if not given. Those whose statistics are frozen stay.
    """
    stats_group, names = StatsGroup(), []
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(layer, only) or isinstance(layer, SyncBatchNorm) or getattr(layer, "statistics_are_frozen", False):
            continue
        made = _like(layer, kind)
        if isinstance(made, SyncBatchNorm):
            made.stats_group = stats_group
        names.append(name)
        if not name:
            return made, names
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made)
    return model, names


def stats_group_of(model: nn.Module) -> StatsGroup:
    """The stats group that all converted layers of a model read; an unused one if there are none."""
    return next((m.stats_group for m in model.modules() if isinstance(m, SyncBatchNorm)), StatsGroup())
