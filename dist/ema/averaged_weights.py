"""Averaged weights: an average of the weights over the steps, which evaluation uses instead.

Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992. Exponential moving averages (EMA) have a
decay, as in Szegedy et al., Rethinking the Inception Architecture, CVPR 2016 (arXiv:1512.00567), section 8; in stochastic
weight averaging (SWA) all count alike. An average is a sum by element, so each rank averages its shard of the weights without
communication.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from phalanx.dist.checkpoint.entries import Entry
from phalanx.dist.checkpoint.layout import EMA
from phalanx.dist.ema.averaged_buffers import AveragedBuffers
from phalanx.dist.ema.shares import ShareOfNew
from phalanx.dist.strategies.strategy import Strategy

if TYPE_CHECKING:
    from phalanx.dist.checkpoint.manifest import Manifest


class Average:
    """The averages of this rank's shards of all trained weights, in the weights' dtype; they start as the weights.

    Args:
        strategy: with initialised weights.
        share_of_new: what share the weights have in the average after an update, counted from 1.
        buffers: buffers that are averaged too; None for none.
    """

    def __init__(self, strategy: Strategy, share_of_new: ShareOfNew, buffers: AveragedBuffers | None = None):
        self._strategy, self._share_of_new, self._buffers = strategy, share_of_new, buffers
        self._trained = {name for name, parameter in strategy.unwrapped.named_parameters() if parameter.requires_grad}
        self._averages = [entry.tensor.detach().clone() for entry in self._weights()]
        self._held: list[Tensor] | None = None
        self._not_stored: set[str] = set()

    def _weights(self) -> list[Entry]:
        """The trained weights' entries."""
        return [
            entry
            for entry in self._strategy.entries()
            if entry.kind == "model" and entry.name in self._trained and entry.tensor.is_floating_point()
        ]

    @property
    def statistics(self) -> Tensor | None:
        """BatchNorm's averaged statistics of this rank's micro-batches, packed; None if they are not averaged."""
        return None if self._buffers is None else self._buffers.statistics

    def set_statistics(self, floats: Tensor) -> None:
        """Sets BatchNorm's statistics of this rank's micro-batches, packed."""
        assert self._buffers is not None
        self._buffers.statistics.copy_(floats)

    def update(self, number: int) -> None:
        """After an update of the optimizer, counted from 1: `average += share * (weight - average)`."""
        share = self._share_of_new(number)
        if not share:
            return
        if self._held is None:
            # Cached, since listing is slow; but not before the first forward, in which FSDP2 may still move the weights.
            self._held = [entry.tensor.detach() for entry in self._weights()]
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._held, share)
            if self._buffers is not None:
                self._buffers.update(share)

    def entries(self) -> list[Entry]:
        """The checkpoint's entries of the averages: views, to be read and filled; sharded as the weights are."""
        weights = [
            replace(entry, name=entry.name + EMA, kind="ema", tensor=average)
            for entry, average in zip(self._weights(), self._averages, strict=True)
            if entry.name not in self._not_stored
        ]
        return weights if self._buffers is None else weights + self._buffers.entries()

    def allocate_state(self, stored: "Manifest") -> None:
        """Leaves out of `entries` what a checkpoint lacks, such as that of a run without averages, from which a fork starts."""
        self._not_stored = {entry.name for entry in self._weights() if entry.name + EMA not in stored.tensors}
        if self._buffers is not None:
            self._buffers.allocate_state(stored)

    def after_load(self) -> None:
        """After weights and averages were loaded: averages that the checkpoint lacked start as its weights."""
        for entry, average in zip(self._weights(), self._averages, strict=True):
            if entry.name in self._not_stored:
                average.copy_(entry.tensor.detach())
        self._not_stored = set()
        if self._buffers is not None:
            self._buffers.after_load()

    @contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """Within the context the model holds the averages; afterwards its weights are back, to the last bit.

        The two are swapped in memory, one tensor after another, so that no further copy of the model is needed. All ranks
        call together.
        """
        exchanged: list[tuple[Tensor, Tensor]] = []
        pairs = [(entry.tensor.detach(), average) for entry, average in zip(self._weights(), self._averages, strict=True)]
        pairs += [] if self._buffers is None else self._buffers.pairs()
        try:
            for weight, average in pairs:
                _swap(weight, average)
                exchanged.append((weight, average))
            self._strategy.after_load()
            yield
        finally:
            for weight, average in exchanged:
                _swap(weight, average)
            self._strategy.after_load()


def _swap(one: Tensor, other: Tensor) -> None:
    """Swaps the elements of two tensors."""
    kept = one.clone()
    one.copy_(other)
    other.copy_(kept)
