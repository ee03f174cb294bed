"""Optimizers by name, torch's or a user's own, over parameter groups with separate learning rates and weight decays."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from phalanx.configs.errors import UserError
from phalanx.configs.own_code import is_own, load_own
from phalanx.configs.schema import RunConfig
from phalanx.configs.sections.optim import OptimConfig
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.step.phases import Phase, trained_in
from phalanx.train.optim.joined import Joined
from phalanx.train.optim.patterns import match_pattern

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm),
)
Groups = list[dict[str, Any]]
MakeOptimizer = Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer]

# Makes the optimizer of a name in `OPTIMIZERS` from parameter groups, which have their own weight decay.
CONSTRUCTORS: dict[str, Callable[[Groups, OptimConfig], torch.optim.Optimizer]] = {
    "sgd": lambda groups, c: torch.optim.SGD(groups, lr=c.lr, momentum=c.momentum, nesterov=c.nesterov),
    "adam": lambda groups, c: torch.optim.Adam(groups, lr=c.lr, betas=c.betas, eps=c.eps),
    "adamw": lambda groups, c: torch.optim.AdamW(groups, lr=c.lr, betas=c.betas, eps=c.eps),
}


def optimizer_factory(
    config: OptimConfig, model: nn.Module, biases_apart: bool = False, phases: Sequence[Phase] = ()
) -> MakeOptimizer:
    """A function that makes the configured optimizer from the named trained parameters.

    Args:
        model: not yet sharded: its modules show which parameters belong to normalisation layers.
        biases_apart: whether biases get separate groups, for their own warm-up.
        phases: the task's; several have an optimizer each.

    Raises:
        UserError: if a pattern matches no parameter, or `optim.phases` names no phase.
    """
    if unknown := [name for name in config.phases if name not in {phase.name for phase in phases}]:
        named = ", ".join(phase.name for phase in phases) if len(phases) > 1 else "one phase, without a name"
        raise UserError(f"optim.phases.{unknown[0]}: the task has no such phase. It has {named}.", shared=True)
    if len(phases) < 2:
        return _factory(config, model, biases_apart)
    factories = {phase.name: _factory(config.of_phase(phase.name), model, biases_apart) for phase in phases}

    def make(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        made = []
        for phase, own in zip(phases, trained_in(phases, parameters), strict=True):
            optimizer = factories[phase.name]({name: p for name, p in parameters.items() if name in own})
            for group in optimizer.param_groups:
                group["lr_factor"] *= config.of_phase(phase.name).lr / config.lr
            made.append(optimizer)
        return Joined(made)

    return make


def _factory(config: OptimConfig, model: nn.Module, biases_apart: bool) -> MakeOptimizer:
    names = [name for name, _ in model.named_parameters()]
    spared = _without_decay(config, model, names)
    factors = _factors(config, names)

    def make(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            decay = 0.0 if name in spared else config.weight_decay
            groups.setdefault((decay, factors.get(name, 1.0), biases_apart and _is_bias(name)), []).append(parameter)
        # The engine sets a group's learning rate: that of the step times the group's factor.
        listed = [{"params": group, "weight_decay": d, "lr_factor": f, "biases": b} for (d, f, b), group in groups.items()]
        return _own(listed, config) if is_own(config.name) else CONSTRUCTORS[config.name](listed, config)

    return make


def _own(groups: Groups, config: OptimConfig) -> torch.optim.Optimizer:
    """A user's own optimizer: `Class(groups, lr=..., **optim.options)`, groups with `weight_decay` if the recipe sets that.

    Raises:
        UserError: if it does not take these arguments, or is no optimizer.
    """
    made: Any = load_own("optim.name", config.name)
    if not config.weight_decay and not config.no_decay:
        groups = [{key: value for key, value in group.items() if key != "weight_decay"} for group in groups]
    try:
        inspect.signature(made).bind(groups, lr=config.lr, **config.options)
    except TypeError as error:
        raise UserError(
            f"optim.name={config.name}: it does not take (params, lr, {', '.join(config.options) or '...'}): {error}. "
            "Correct the class, or optim.options."
        ) from None
    optimizer = made(groups, lr=config.lr, **config.options)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"optim.name={config.name}: this is not a torch.optim.Optimizer. Derive the class from it.")
    return optimizer


def check_strategy(config: RunConfig) -> None:
    """Refuses an optimizer of the user's own where parameters are cut into pieces that it would take for whole ones.

    Raises:
        UserError: with what to state, or to set.
    """
    name, strategy = config.optim.name, config.dist.strategy
    exact_shards = config.dist.reduce == "exact" and STRATEGIES[strategy].shards
    if not is_own(name) or not (STRATEGIES[strategy].zero_stage or exact_shards):
        return
    if not getattr(load_own("optim.name", name), "element_wise", False):
        how = f"dist.strategy={strategy}" + (" with dist.reduce=exact" if exact_shards else "")
        raise UserError(
            f"optim.name={name}: {how} gives an optimizer pieces of parameters. If it updates every element by itself, without "
            "norms or means of a parameter, give the class the attribute element_wise = True; else set dist.strategy=ddp.",
            shared=True,
        )


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
