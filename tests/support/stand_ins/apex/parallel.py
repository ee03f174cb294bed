"""As much of `apex.parallel` as a script of data parallelism uses."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["DistributedDataParallel", "convert_syncbn_model"]


def convert_syncbn_model(model: nn.Module) -> nn.Module:
    """The model as it is: on CPUs torch has no BatchNorm that is synchronised."""
    return model
