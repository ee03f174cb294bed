"""Activation checkpointing: a block's activations are dropped in the forward and computed again in the backward.

Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016 (arXiv:1604.06174). The second computation draws the same
noise, and leaves BatchNorm's running statistics as they are, so that gradients and buffers are the same bits as without.
"""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phalanx.dist.batchnorm.recomputed import Tape
from phalanx.dist.strategies.blocks import blocks

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


def apply(model: nn.Module, config: "RunConfig") -> None:
    """Makes every block of the model, or every N-th, drop its activations, as `train.activation_checkpointing` says."""
    every = config.train.activation_checkpointing
    if every == "off":
        return
    for name in blocks(model)[:: 1 if every == "blocks" else every]:
        block = model.get_submodule(name)
        # By its class, as FSDP2 does: a deep copy of the block then computes with its own weights.
        block.__class__ = _checkpointed(type(block))


_KINDS: dict[type[nn.Module], type[nn.Module]] = {}


def _checkpointed(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class with a forward that keeps nothing but its inputs, where gradients are wanted; made once."""

    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return kind.forward(self, *inputs, **named)
        # The second forward ends where its last activation is there, before the hooks behind it: ZeRO-3's would let the
        # parameters go that the backward needs next.
        return checkpoint(
            functools.partial(kind.forward, self),
            *inputs,
            use_reentrant=False,
            context_fn=lambda: _contexts(self),
            **named,
        )

    if kind not in _KINDS:
        described = {"__doc__": kind.__doc__, "__module__": kind.__module__}
        _KINDS[kind] = type(kind.__name__, (kind,), {"forward": forward, **described})
    return _KINDS[kind]


def _contexts(block: nn.Module) -> "tuple[AbstractContextManager[None], AbstractContextManager[None]]":
    """Those of the first forward, and of the second."""
    tape = Tape()
    return tape.recording(), _again(block, tape)


@contextmanager
def _again(block: nn.Module, tape: Tape) -> Iterator[None]:
    with tape.replaying(), _buffers_set_aside(block):
        yield


@contextmanager
def _buffers_set_aside(block: nn.Module) -> Iterator[None]:
    """Within it, what a forward writes into buffers is written into copies.

    Copies take their places, rather than the old values being written back: autograd checks that what a forward has read was
    not written since.
    """
    kept: list[tuple[dict[str, Tensor | None], str, Tensor]] = []
    for module in block.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                kept.append((module._buffers, name, buffer))
                module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for buffers, name, buffer in kept:
            buffers[name] = buffer
