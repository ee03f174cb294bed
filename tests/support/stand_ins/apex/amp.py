"""As much of `apex.amp` as a script of mixed precision uses: losses are scaled, gradients unscaled; all is float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_SCALE = 1024.0


def initialize(model: nn.Module, optimizer: torch.optim.Optimizer, opt_level: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    assert opt_level == "O1", "the weights stay float32"
    return model, optimizer


@contextmanager
def scale_loss(loss: Tensor, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """The loss times its scale; afterwards the gradients are divided by it."""
    yield loss * _SCALE
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad /= _SCALE


def state_dict() -> dict[str, Any]:
    return {"loss_scaler0": {"loss_scale": _SCALE, "unskipped": 0}}
