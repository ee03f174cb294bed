"""Activation checkpointing: a block's activations are dropped in the forward and computed again in the backward.

Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016 (arXiv:1604.06174). The second computation draws the same noise,
and leaves BatchNorm's running statistics as they are, so that gradients and buffers are the same bits as without.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phalanx.configs.errors import UserError
from phalanx.dist.strategies.blocks import blocks

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig


def apply(model: nn.Module, config: "RunConfig") -> None:
    """Makes every block of the model, or every N-th, drop its activations, as `train.activation_checkpointing` says.

    Raises:
        UserError: if the model names no blocks.
    """
    every = config.train.activation_checkpointing
    if every == "off":
        return
    names = blocks(model)
    if not names:
        raise UserError(
            "train.activation_checkpointing needs to know the model's blocks, and it has none. Give the class the attribute "
            "block_names, or set off.",
            shared=True,
        )
    for name in names[:: 1 if every == "blocks" else every]:
        _drop_activations(model.get_submodule(name))


def _drop_activations(block: nn.Module) -> None:
    """Only where gradients are wanted, and in training: an evaluation keeps nothing anyway."""
    forward: Callable[..., Any] = block.forward

    def forward_twice(*inputs: Any, **named: Any) -> Any:
        if not block.training:
            return forward(*inputs, **named)
        contexts: Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]] = lambda: (
            nullcontext(),
            _buffers_set_aside(block),
        )
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)

    block.forward = forward_twice  # type: ignore[method-assign]


@contextmanager
def _buffers_set_aside(block: nn.Module) -> Iterator[None]:
    """Within it, what a forward writes into buffers is written into copies.

    Copies take their places, rather than the old values being written back: autograd checks that what a forward has read was
    not written since.
    """
    kept: list[tuple[nn.Module, str, Tensor]] = []
    for module in block.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                kept.append((module, name, buffer))
                module._buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer
