"""BatchNorm layers whose running statistics are used and kept while training, though their weights and biases are trained.

For fine-tuning on few or small micro-batches, whose own statistics say little.
"""

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Freezes the statistics of layers, by their names."""
    for name in names:
        layer = model.get_submodule(name)
        layer.__class__ = _frozen(type(layer))
        layer.eval()


def norms(model: nn.Module) -> list[str]:
    """The names of all BatchNorm layers."""
    return [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]


_KINDS: dict[type[nn.Module], type[nn.Module]] = {}


def _frozen(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class, always in evaluation mode; made once."""

    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        return kind.train(self, False)

    if kind not in _KINDS:
        _KINDS[kind] = type(kind.__name__, (kind,), {"train": train, "statistics_are_frozen": True, "__doc__": kind.__doc__})
    return _KINDS[kind]
