"""An optimizer of torch, of timm or of a user, made from parameter groups."""

import difflib
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import torch

from phalanx.configs.errors import UserError
from phalanx.configs.optimizer_table import OPTIMIZERS, TIMM, spec_of
from phalanx.configs.own_code import is_own, load_ours, load_own
from phalanx.configs.sections.optim import OptimConfig
from phalanx.dist.strategies.optimizer_state import note_numbers

Groups = list[dict[str, Any]]

# What the engine sets, and how torch computes: neither is an argument for recipes.
_NOT_ARGUMENTS = frozenset({"params", "lr", "weight_decay", "foreach", "fused", "capturable", "differentiable"})
# One kernel for all parameters, a sixth of the time of the loop over them on CPU cores. It rounds otherwise where a parameter
# is cut otherwise: the last elements of a piece do not fill a vector register.
_FUSED = frozenset({"adam", "adamw"})


def construct(groups: Groups, config: OptimConfig, fused: bool = False) -> torch.optim.Optimizer:
    """The configured optimizer.

    Args:
        groups: have a `weight_decay` each; the engine sets the learning rate of each at every step.
        fused: whether torch's fused kernels may be used, where it has them.

    Raises:
        UserError: if it does not exist, does not take `optim.options`, or is no optimizer.
    """
    optimizer = _own(groups, config) if is_own(config.name) else _listed(groups, config, fused)
    note_numbers(optimizer)
    return optimizer


def _listed(groups: Groups, config: OptimConfig, fused: bool) -> torch.optim.Optimizer:
    """One of torch or of timm."""
    made, spec = check(config), spec_of(config)
    given = {key: getattr(config, key) for key in spec.keys} | config.options
    given = {key: value for key, value in given.items() if value is not None or key in config.options}
    if fused and config.name in _FUSED:
        given["fused"] = True
    try:
        optimizer: torch.optim.Optimizer = made(groups, lr=config.lr, **given)
    except (TypeError, ValueError, AssertionError) as error:
        listed = ", ".join(f"{key}={value}" for key, value in given.items()) or "its own defaults"
        raise UserError(f"optim.name={config.name} with {listed}: {error or 'not allowed'}. Correct it.", shared=True) from None
    return optimizer


def check(config: OptimConfig) -> Callable[..., torch.optim.Optimizer]:
    """The class of an optimizer of torch or of timm, once it is known to take `optim.options`.

    Raises:
        UserError: if it does not, or if there is no such optimizer.
    """
    spec = spec_of(config)
    made: Callable[..., torch.optim.Optimizer] = load_ours(spec.place) if config.name in OPTIMIZERS else _of_timm(config.name)
    takes = [name for name in inspect.signature(made).parameters if name not in {*_NOT_ARGUMENTS, *spec.keys}]
    for name in config.options:
        if name not in takes:
            listed = f"It takes {', '.join(takes)}." if takes else "It takes no others than keys of optim."
            raise UserError(f"optim.options.{name}: {config.name} has no such argument. {listed}", shared=True)
    return made


def _of_timm(name: str) -> Callable[..., torch.optim.Optimizer]:
    """timm's class, with the arguments that the name stands for.

    Raises:
        UserError: if timm is not installed, or has no such optimizer.
    """
    plain = name.removeprefix(TIMM)
    if importlib.util.find_spec("timm") is None:
        raise UserError(f"optim.name={name}: timm is not installed. Install it with `pip install timm`.")
    import timm.optim

    if plain not in (known := timm.optim.list_optimizers()):
        near = difflib.get_close_matches(plain, known, n=3, cutoff=0.4)
        hint = (
            f"Did you mean {' or '.join(TIMM + each for each in near)}?" if near else "timm.optim.list_optimizers() lists all."
        )
        raise UserError(f"optim.name={name}: timm has no such optimizer. {hint}", shared=True)
    if timm.optim.get_optimizer_info(plain).second_order:
        raise UserError(
            f"optim.name={name}: it needs second derivatives, which a run does not compute. Set another.", shared=True
        )
    try:
        made: Callable[..., torch.optim.Optimizer] = timm.optim.get_optimizer_class(plain, bind_defaults=True)
    except (ImportError, RuntimeError, AssertionError) as error:
        raise UserError(f"optim.name={name}: {error}. Set another optimizer, or install what it needs.", shared=True) from None
    return made


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
