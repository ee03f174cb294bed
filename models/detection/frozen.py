"""BatchNorm whose statistics and factors are constants, as detectors have it that start from a trained backbone.

Two images per device say too little of channel means (Ren et al., arXiv:1506.01497, code; He et al., arXiv:1703.06870, code).
"""

from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def freeze(module: nn.Module) -> None:
    """Puts torchvision's FrozenBatchNorm2d in the place of every BatchNorm, under the same names.

    Weight and bias become buffers instead of parameters.
    """
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, FrozenBatchNorm2d(layer.num_features, layer.eps))


def set_eps(module: nn.Module, eps: float) -> None:
    """What frozen layers add to their variances: weights were trained with a certain one."""
    for layer in module.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.eps = eps
