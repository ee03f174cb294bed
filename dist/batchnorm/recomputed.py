"""Exactly synchronised BatchNorm within a block that activation checkpointing computes again in the backward.

The second computation is one micro-batch's alone: it takes the statistics of the first one, which a tape has kept, `[C]` each.
The inputs of the layers, which the joint backward needs, are kept by each micro-batch's own graph, where activation
checkpointing drops them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from phalanx.dist.batchnorm.affine import affine


@dataclass
class Statistics:
    """Of one call of a layer; `scale` and `shift` of the values, mean and unbiased variance, each [C]."""

    scale: Tensor | None = None
    shift: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None


class Tape:
    """The statistics of the layers of a block in one forward, in the order of their calls."""

    def __init__(self) -> None:
        self._calls: list[Statistics] = []
        self._replayed: int | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """The block's first forward."""
        token = _TAPE.set(self)
        try:
            yield
        finally:
            _TAPE.reset(token)

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """The second one."""
        self._replayed, token = 0, _TAPE.set(self)
        try:
            yield
        finally:
            self._replayed = None
            _TAPE.reset(token)

    @property
    def replays(self) -> bool:
        return self._replayed is not None

    def keep(self, x: Tensor) -> "tuple[Tensor, Kept]":
        """In the first forward: the input of a layer, and where the joint function finds it again."""
        kept = Kept()
        self._calls.append(kept.statistics)
        return _Keep.apply(x, kept), kept

    def replayed(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """In the second forward: what the layer gave in the first: its output, mean and unbiased variance."""
        assert self._replayed is not None
        found = self._calls[self._replayed]
        self._replayed += 1
        assert found.mean is not None and found.variance is not None
        output: Tensor = _Replay.apply(_Keep.apply(x, Kept()), found.scale, found.shift)
        return output, found.mean, found.variance


# Of each forward: a greenlet has a context of its own.
_TAPE: ContextVar[Tape | None] = ContextVar("tape", default=None)


def current_tape() -> Tape | None:
    """The tape of the checkpointed block whose forward runs."""
    return _TAPE.get()


@dataclass
class Kept:
    """The input of a layer in one forward, saved by a function of that forward's own.

    The tape has the statistics, not this: the graph would keep itself alive otherwise.
    """

    statistics: Statistics = field(default_factory=Statistics)
    node: Any = None

    def input(self) -> Tensor:
        """In the backward. Where the block dropped it, the block is computed again now."""
        (x,) = self.node.saved_tensors
        return x


class _Keep(torch.autograd.Function):
    """The identity, which saves its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Kept) -> Tensor:
        ctx.save_for_backward(x)
        kept.node = ctx
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Replay(torch.autograd.Function):
    """The normalised values. It saves nothing, as the joint function saved nothing in this forward; it has no backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return affine(x, scale, shift)
