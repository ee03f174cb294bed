"""What `optimizers.py` compares: every optimizer as a recipe names it, and as torch or timm makes it."""

import importlib
import inspect
from collections.abc import Iterable
from typing import Any

import torch

from benchmarks import parity_cases as cases
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.optimizer_table import OPTIMIZERS, TIMM
from phalanx.configs.schema import RunConfig
from phalanx.train.optim.constructing import construct
from phalanx.train.optim.optimizers import check_strategy

DECAY = 0.01
# What the names leave open, so that each part of their state is there.
OPTIONS: dict[str, dict[str, Any]] = {
    "rmsprop": {"momentum": 0.9, "centered": True},
    "adam": {"amsgrad": True},
    "timm/lars": {"momentum": 0.9},
    "timm/sgdw": {"momentum": 0.9},
}
OF_TIMM = [
    f"{TIMM}{name}" for name in ("lamb", "lars", "lion", "adan", "adopt", "nadamw", "laprop", "madgrad", "adabelief", "sgdw")
]
NAMES = [name for name, spec in OPTIMIZERS.items() if not spec.refused] + OF_TIMM


def overrides(name: str) -> list[str]:
    """Keys of a recipe."""
    decay = 0.0 if name in OPTIMIZERS and not OPTIMIZERS[name].decays else DECAY
    given = [f"optim.options.{key}={str(value).lower()}" for key, value in OPTIONS.get(name, {}).items()]
    return [f"optim.name={name}", f"optim.lr={cases.LEARNING_RATE}", f"optim.weight_decay={decay}", *given]


def ours(name: str) -> Any:
    """As a recipe names it."""
    optim = load([cases.RECIPE], overrides(name)).optim
    return lambda parameters: construct([{"params": list(parameters), "weight_decay": optim.weight_decay}], optim)


def by_itself(name: str) -> Any:
    """torch's or timm's class with the same arguments."""
    optim = load([cases.RECIPE], overrides(name)).optim
    if name.startswith(TIMM):
        import timm.optim

        made: Any = timm.optim.get_optimizer_class(name.removeprefix(TIMM))
    else:
        module, _, kind = OPTIMIZERS[name].place.partition(":")
        made = getattr(importlib.import_module(module), kind)
    given = {**OPTIONS.get(name, {}), "lr": cases.LEARNING_RATE}
    if "weight_decay" in inspect.signature(made).parameters:
        given["weight_decay"] = optim.weight_decay
    given |= {key: getattr(optim, key) for key in OPTIMIZERS[name].keys} if name in OPTIMIZERS else {}

    def make(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        if name == "muon":  # which takes groups
            return made([{"params": list(parameters), "weight_decay": optim.weight_decay}], **given)
        return made(list(parameters), **given)

    return make


def refusal(name: str, *of_dist: str) -> str | None:
    """Why a run is refused before its first step; None if it is not."""
    try:
        config: RunConfig = load([cases.RECIPE], [*overrides(name), *of_dist])
        check_strategy(config)
    except UserError as error:
        return str(error)
    return None


def allowed(name: str, precision: str) -> float:
    """How far an optimizer may be from torch's own: rounding of so few steps; Muon computes in bfloat16."""
    if name == "muon":
        return 0.05
    return {"fp64": 1e-10, "fp32": 1e-4}[precision]
