"""Optimizers over parameter groups with separate learning rates and weight decays."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from phalanx.configs.errors import UserError
from phalanx.configs.optimizer_table import spec_of
from phalanx.configs.own_code import is_own, load_own
from phalanx.configs.schema import RunConfig
from phalanx.configs.sections.optim import OptimConfig
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.step.phases import Phase, trained_in
from phalanx.train.optim import adaptive_clip, layer_decay, penalties
from phalanx.train.optim.constructing import construct
from phalanx.train.optim.joined import Joined
from phalanx.train.optim.patterns import match_pattern

_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.RMSNorm),
)
MakeOptimizer = Callable[[Mapping[str, nn.Parameter]], torch.optim.Optimizer]


def optimizer_factory(
    config: OptimConfig, model: nn.Module, biases_apart: bool = False, phases: Sequence[Phase] = (), fused: bool = False
) -> MakeOptimizer:
    """A function that makes the configured optimizer from the named trained parameters.

    Args:
        model: not yet sharded: its modules show which parameters belong to normalisation layers.
        biases_apart: whether biases get separate groups, for their own warm-up.
        phases: the task's; several have an optimizer each.
        fused: whether torch's fused kernels may be used, whose rounding depends on how parameters are cut.

    Raises:
        UserError: if a pattern matches no parameter, or `optim.phases` names no phase.
    """
    if unknown := [name for name in config.phases if name not in {phase.name for phase in phases}]:
        named = ", ".join(phase.name for phase in phases) if len(phases) > 1 else "one phase, without a name"
        raise UserError(f"optim.phases.{unknown[0]}: the task has no such phase. It has {named}.", shared=True)
    if len(phases) < 2:
        return _factory(config, model, biases_apart, fused)
    factories = {phase.name: _factory(config.of_phase(phase.name), model, biases_apart, fused) for phase in phases}

    def make(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        made = []
        for phase, own in zip(phases, trained_in(phases, parameters), strict=True):
            optimizer = factories[phase.name]({name: p for name, p in parameters.items() if name in own})
            for group in optimizer.param_groups:
                group["lr_factor"] *= config.of_phase(phase.name).lr / config.lr
            made.append(optimizer)
        return Joined(made)

    return make


def _factory(config: OptimConfig, model: nn.Module, biases_apart: bool, fused: bool) -> MakeOptimizer:
    settings = group_settings(config, model, biases_apart)

    def make(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        groups: dict[tuple[Any, ...], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            groups.setdefault(tuple(settings[name].items()), []).append(parameter)
        optimizer = construct([{"params": group, **dict(own)} for own, group in groups.items()], config, fused)
        if config.agc is not None:
            adaptive_clip.add(optimizer, config.agc)
        penalties.add(optimizer, config.l1, config.l2)
        return optimizer

    return make


def group_settings(config: OptimConfig, model: nn.Module, biases_apart: bool = False) -> dict[str, dict[str, Any]]:
    """Of each parameter what its group has: `weight_decay`, `lr_factor`, `biases`; maybe `frozen_epochs`,
    `spared` of penalties, and `no_agc`.

    The engine sets a group's learning rate: that of the step times the group's factor.

    Raises:
        UserError: if a pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    spared, factors = _without_decay(config, model, names), _factors(config, model, names)
    unclipped = {name for pattern in config.no_agc for name in match_pattern("optim.no_agc", pattern, names)}
    frozen = dict[str, float]()
    for pattern, epochs in config.unfreeze.items():
        frozen |= dict.fromkeys(match_pattern("optim.unfreeze", pattern, names), epochs)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        decay = 0.0 if name in spared else config.weight_decay
        found[name] = {"weight_decay": decay, "lr_factor": factors.get(name, 1.0), "biases": biases_apart and _is_bias(name)}
        if name in frozen:
            found[name]["frozen_epochs"] = frozen[name]
        if config.l1 or config.l2:
            found[name]["spared"] = name in spared
        if config.agc is not None:
            found[name]["no_agc"] = name in unclipped
    return found


def check_strategy(config: RunConfig) -> None:
    """Refuses an optimizer that looks at parameters as wholes where it would be given pieces of them.

    Raises:
        UserError: with what to state, or to set.
    """
    name, strategy, spec = config.optim.name, config.dist.strategy, spec_of(config.optim)
    shards = STRATEGIES[strategy].shards
    kind = "zero" if STRATEGIES[strategy].deepspeed else "fsdp" if STRATEGIES[strategy].is_fsdp else ""
    if kind in spec.not_under:
        raise UserError(
            f"optim.name={name}: it cannot be used with dist.strategy={strategy}: {spec.not_under[kind]}. Set "
            "dist.strategy=ddp.",
            shared=True,
        )
    if not spec.full_state and shards:
        raise UserError(
            f"optim.name={name}: its state is not in the shape of the parameters, and dist.strategy={strategy} shards it. Set "
            "dist.strategy=ddp.",
            shared=True,
        )
    exact_shards = config.dist.reduce == "exact" and shards
    if config.optim.agc is not None and (kind == "zero" or exact_shards):
        raise UserError(
            f"optim.agc={config.optim.agc}: dist.strategy={strategy} gives an optimizer pieces of parameters, and adaptive "
            "clipping takes norms of full ones. Set train.clip_norm instead, or dist.strategy=ddp.",
            shared=True,
        )
    if spec.element_wise or not (STRATEGIES[strategy].zero_stage or exact_shards):
        return
    how = f"dist.strategy={strategy}" + (" with dist.reduce=exact" if exact_shards else "")
    if not is_own(name):
        raise UserError(
            f"optim.name={name}: {how} gives an optimizer pieces of parameters, and this one needs full ones. Set "
            "dist.strategy=ddp.",
            shared=True,
        )
    if not getattr(load_own("optim.name", name), "element_wise", False):
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


def _factors(config: OptimConfig, model: nn.Module, names: Sequence[str]) -> dict[str, float]:
    """The product of the last pattern that matches and of the factor by depth."""
    found = dict[str, float]()
    for pattern, factor in config.lr_factors.items():
        found |= dict.fromkeys(match_pattern("optim.lr_factors", pattern, names), factor)
    if config.layer_decay is None:
        return found
    by_depth = layer_decay.factors(config.layer_decay, model, names)
    return {name: found.get(name, 1.0) * factor for name, factor in by_depth.items()}
