"""The interface between the engine and the strategies: how ranks share a model, its gradients and its optimizer."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from phalanx.dist.checkpoint.entries import Entry
from phalanx.dist.strategies.rates import Rates

if TYPE_CHECKING:
    from phalanx.dist.checkpoint.manifest import Manifest


class Strategy(Protocol):
    """A model and its optimizer, shared by all ranks.

    Attributes:
        model: the wrapped model, which tasks call in training.
        unwrapped: the original module; its submodules and buffers have their original names.
        collective: whether forwards and backwards wait for other ranks; a rank without micro-batches runs fillers.
        grad_divisor: by which the strategy divides the sum of the ranks' gradients.
    """

    model: nn.Module
    unwrapped: nn.Module
    collective: bool
    grad_divisor: int

    def select_phase(self, number: int | None) -> None:
        """Announces which of a step's phases comes next: only its parameters get gradients. None: all, between steps."""
        ...

    def forward_backward(self, numbers: range | None, last: bool) -> AbstractContextManager[None]:
        """Wraps one forward and backward of this rank; gradients are reduced in the last, or earlier to save memory.

        Args:
            numbers: those of its micro-batches; None in the warm-up.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """The backward of one forward pass; called within `forward_backward`."""
        ...

    def gradients(self) -> list[Tensor]:
        """After the last pass: this rank's shards of the summed gradient, to be changed in place."""
        ...

    def sum_of_parts(self, value: Tensor) -> Tensor:
        """The sum of a 0-dimensional tensor over the ranks that hold shards of a gradient; unchanged if each rank holds all."""
        ...

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The 2-norm of the full gradient, from this rank's shards, equal on all ranks."""
        ...

    def update(self, rates: Rates) -> None:
        """The optimizer's step; frees the gradients."""
        ...

    def discard(self) -> None:
        """Drops the gradients."""
        ...

    def entries(self) -> list[Entry]:
        """This rank's shards of parameters and of the optimizer's state: views, to be read and filled."""
        ...

    def scalars(self) -> dict[str, Any]:
        """The optimizer's state besides tensors, as JSON, by the parameters' names."""
        ...

    def allocate_state(self, stored: "Manifest") -> None:
        """Allocates a checkpoint's state in a fresh optimizer, with its tensors still to be filled."""
        ...

    def after_load(self) -> None:
        """To be called after the entries' tensors were loaded."""
        ...

    def full_params(self) -> AbstractContextManager[nn.Module]:
        """A plain module with all weights on this rank; its forwards wait for no other rank. All ranks call together."""
        ...
