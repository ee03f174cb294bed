"""Ensembles: the mean of several networks' probabilities."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

# From what a network returns, and its input, to logits.
LogitsOf = Callable[[Any, Tensor], Tensor]


def plain(output: Any, images: Tensor) -> Tensor:
    """The output of a network that returns logits."""
    assert isinstance(output, Tensor)
    return output


class MeanProbability(nn.Module):
    """Logits whose probabilities are the mean of those of several networks (a deep ensemble, arXiv:1612.01474).

    The logits of a softmax are logarithms of the mean; those of sigmoids its log odds. Both come from logarithms of
    probabilities, so that a confident network gives no infinity.

    Args:
        kind: the function from logits to probabilities.
        logits: from what a network returns, and its input, to logits.

    Returns logits, in a tensor.

    Shape: the networks' input, to their [B, classes] or [B, classes, H, W].
    """

    def __init__(self, models: Sequence[nn.Module], kind: Literal["softmax", "sigmoid"], logits: LogitsOf = plain):
        super().__init__()
        self.models = nn.ModuleList(models)
        self._kind, self._logits = kind, logits

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.stack([self._logits(model(images), images) for model in self.models])  # [models, B, classes, ...]
        if self._kind == "softmax":
            return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
        # log(mean p) - log(mean (1 - p)): the number of networks cancels.
        positive, negative = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
        return positive.logsumexp(dim=0) - negative.logsumexp(dim=0)
