"""Initialisations of a network's weights by name, in place of its own.

Xavier: Glorot and Bengio, AISTATS 2010; He: He et al., ICCV 2015 (arXiv:1502.01852); orthogonal: Saxe et al., ICLR 2014
(arXiv:1312.6120).
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

Initialisation = Literal["xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "orthogonal", "truncated_normal"]

_DRAW: dict[str, Callable[[Tensor], object]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "he_uniform": lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
    "he_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "orthogonal": nn.init.orthogonal_,
    "truncated_normal": lambda weight: nn.init.trunc_normal_(weight, std=0.02),
}
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def initialise(network: nn.Module, how: Initialisation) -> None:
    """Draws the weights of linear layers and convolutions from torch's global generator; their biases become 0.

    All else, such as normalisation layers and embeddings, stays as the network has it.
    """
    for layer in network.modules():
        if isinstance(layer, _KINDS):
            _DRAW[how](layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
