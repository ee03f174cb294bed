"""Stochastic depth: Huang et al., Deep Networks with Stochastic Depth, ECCV 2016 (arXiv:1603.09382)."""

from torch import nn
from torchvision.ops import StochasticDepth


def set_rate(network: nn.Module, rate: float) -> None:
    """Gives every block its rate: rising with the depth, linearly, from 0 in the first to `rate` in the last (section 3.2)."""
    layers = [layer for layer in network.modules() if isinstance(layer, StochasticDepth)]
    for place, layer in enumerate(layers):
        layer.p = rate * place / (len(layers) - 1)
