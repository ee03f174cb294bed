"""What the engine asks of a strategy: how ranks share a model, its gradients and its optimizer."""

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
        model: what a task calls while training.
        unwrapped: the module that was built; its submodules and buffers have their plain names.
        collective: whether forwards and backwards wait for other ranks; a rank short of micro-batches runs fillers.
        grad_divisor: what the strategy divides the sum of the ranks' gradients by.
    """

    model: nn.Module
    unwrapped: nn.Module
    collective: bool
    grad_divisor: int

    def forward_backward(self, number: int | None, last: bool) -> AbstractContextManager[None]:
        """Wraps one forward and backward of this rank's; gradients meet in its last, or where memory asks for it.

        Args:
            number: of the micro-batch that runs in it, the first where several do; None for the warm-up.
        """
        ...

    def backward(self, loss: Tensor) -> None:
        """The backward of one turn; called within it."""
        ...

    def gradients(self) -> list[Tensor]:
        """After the last turn: the parts of the summed gradient that this rank holds, to be changed in place."""
        ...

    def sum_of_parts(self, value: Tensor) -> Tensor:
        """The sum of a 0-dimensional tensor over the ranks that hold parts of one gradient: itself where each holds all."""
        ...

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The 2-norm of the whole gradient, from the parts held here, the same on all ranks."""
        ...

    def update(self, rates: Rates) -> None:
        """The optimizer's step; gradients are gone afterwards."""
        ...

    def discard(self) -> None:
        """Forgets the gradients."""
        ...

    def entries(self) -> list[Entry]:
        """Parameters, and the optimizer's state by their names, as far as held here: views, to be read and filled."""
        ...

    def scalars(self) -> dict[str, Any]:
        """The optimizer's state besides tensors, as JSON, by the parameters' names."""
        ...

    def allocate_state(self, stored: "Manifest") -> None:
        """Gives an optimizer that has not stepped yet the state of a checkpoint, its tensors still to be filled."""
        ...

    def after_load(self) -> None:
        """The tensors of the entries were filled from a checkpoint."""
        ...

    def full_params(self) -> AbstractContextManager[nn.Module]:
        """A plain module with all weights on this rank; its forwards wait for nobody. All ranks call together."""
        ...
