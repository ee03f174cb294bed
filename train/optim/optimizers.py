"""Optimizers by name, torch's own, over parameters in groups of their own learning rate and weight decay."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import nn

from phalanx.configs.sections.optim import OptimConfig
from phalanx.train.optim.patterns import match_pattern

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm),
)
MakeOptimizer = Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer]


def optimizer_factory(config: OptimConfig, model: nn.Module, biases_apart: bool = False) -> MakeOptimizer:
    """What makes the configured optimizer from the named parameters that are trained.

    Args:
        model: not yet shared out: its modules tell which parameters belong to normalisation layers.
        biases_apart: whether biases are groups of their own, for a warm-up of theirs.

    Raises:
        UserError: where a pattern names no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    spared = _without_decay(config, model, names)
    factors = _factors(config, names)

    def make(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            decay = 0.0 if name in spared else config.weight_decay
            groups.setdefault((decay, factors.get(name, 1.0), biases_apart and _is_bias(name)), []).append(parameter)
        # The engine sets a group's learning rate: that of the step times the group's factor.
        told = [{"params": group, "weight_decay": d, "lr_factor": f, "biases": b} for (d, f, b), group in groups.items()]
        if config.name == "sgd":
            return torch.optim.SGD(told, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
        return torch.optim.AdamW(told, lr=config.lr, betas=config.betas, eps=config.eps)

    return make


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"


def _without_decay(config: OptimConfig, model: nn.Module, names: Collection[str]) -> set[str]:
    found = set[str]()
    for pattern in config.no_decay:
        if pattern == "norm":
            found |= {
                f"{place}.{own}" if place else own
                for place, module in model.named_modules()
                if isinstance(module, _NORMS)
                for own, _ in module.named_parameters(recurse=False)
            }
        elif pattern == "bias":
            found |= {name for name in names if _is_bias(name)}
        else:
            found |= set(match_pattern("optim.no_decay", pattern, names))
    return found


def _factors(config: OptimConfig, names: Collection[str]) -> dict[str, float]:
    found = dict[str, float]()
    for pattern, factor in config.lr_factors.items():
        found |= dict.fromkeys(match_pattern("optim.lr_factors", pattern, names), factor)
    return found
