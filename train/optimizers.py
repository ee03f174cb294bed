"""Optimizers by name, torch's own."""

from collections.abc import Mapping

import torch
from torch import nn

from phalanx.configs.schema import OptimConfig


def make(config: OptimConfig, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimizer over the parameters that are trained."""
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters.values(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
    return torch.optim.AdamW(
        parameters.values(), lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )
