"""BatchNorm's statistics of averaged weights, computed again over training data: those of training fit no average of weights.

Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018 (arXiv:1803.05407), algorithm 1:
the last line. As in training, a micro-batch's statistics belong to its number: the same on any number of ranks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from phalanx.dist.batchnorm.running_stats import MicroBatchStatistics
from phalanx.dist.microbatches.forward_passes import ForwardPass
from phalanx.dist.microbatches.micro_batch import MicroBatch
from phalanx.dist.microbatches.sampler import Share

Forward = Callable[[MicroBatchStatistics, int, ForwardPass, Sequence[MicroBatch]], None]


def recomputed(
    model: nn.Module, mine: Share, passes: Sequence[ForwardPass], steps: Iterable[Sequence[MicroBatch]], forward: Forward
) -> Tensor:
    """The means over some steps of the statistics of each of this rank's micro-batches, packed as in `MicroBatchStatistics`.

    Args:
        model: a plain module with the averaged weights.
        mine: this rank's micro-batches of a step.
        passes: in which it runs them.
        steps: the micro-batches of each step, on the CPU.
        forward: runs a pass of a step, counted from 0, with the statistics of its micro-batches selected.
    """
    with torch.no_grad(), _other_buffers_kept(model), _momenta_kept(model):
        model.train()
        chains = MicroBatchStatistics(model, mine)
        for step, batch in enumerate(steps):
            for layer in chains.layers.values():
                layer.momentum = 1 / (step + 1)  # the first step's statistics take the place of what was there
            for forward_pass in passes:
                if not forward_pass.is_filler:
                    forward(chains, step, forward_pass, batch[forward_pass.first - mine.first : forward_pass.last - mine.first])
        return chains.floats()


@contextmanager
def _momenta_kept(model: nn.Module) -> Iterator[None]:
    layers = [module for module in model.modules() if hasattr(module, "momentum") and hasattr(module, "running_mean")]
    kept = [layer.momentum for layer in layers]
    try:
        yield
    finally:
        for layer, momentum in zip(layers, kept, strict=True):
            layer.momentum = momentum


@contextmanager
def _other_buffers_kept(model: nn.Module) -> Iterator[None]:
    """What forwards change in buffers is taken back. Those of BatchNorm's layers are others within the context."""
    holders = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffers, own in holders:
            buffers.update(own)
        for buffer, value in values:
            buffer.copy_(value)
