"""The optimizers by name: what each reads of `optim`, keeps, and can be given. The only table of optimizers. No torch here.

A new optimizer is a line here (docs/extending.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from phalanx.configs.own_code import is_own

# The section `optim` of a recipe, whose module reads this table.
OptimConfig = Any

TIMM = "timm/"


@dataclass(frozen=True)
class OptimizerSpec:
    """What is known of an optimizer without torch.

    Attributes:
        place: its class, as `module:Class`.
        keys: keys of `optim` that it reads besides `lr` and `weight_decay`; other arguments stand in `optim.options`.
        state_tensors: how many tensors of a parameter's size it keeps for each parameter, at most.
        element_wise: whether it updates each element by itself, without norms or means of a parameter. Only such ones can be
            given pieces of parameters, as ZeRO does.
        decays: whether it takes a weight decay.
        full_state: whether its state always has the shape of the parameter; otherwise every rank must hold the full parameter.
        not_under: kinds of strategies ("zero", "fsdp") under which it cannot be used, and why.
        refused: why it cannot be used at all.
    """

    place: str
    keys: tuple[str, ...] = ()
    state_tensors: Callable[[OptimConfig], int] = lambda optim: 2
    element_wise: bool = True
    decays: bool = True
    full_state: bool = True
    not_under: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""

    def momentum(self, optim: OptimConfig) -> float | None:
        """The value that `schedule.warmup_momentum` rises to: SGD's momentum, the first beta of Adam; None: it has none."""
        if "momentum" in self.keys:
            return optim.momentum
        return optim.betas[0] if "betas" in self.keys and optim.betas is not None else None


_ADAM = ("betas", "eps")


def _adam(optim: OptimConfig) -> int:
    return 2 + bool(optim.options.get("amsgrad"))


def _rmsprop(optim: OptimConfig) -> int:
    return 1 + bool(optim.options.get("momentum")) + bool(optim.options.get("centered"))


_REPLACED = "DeepSpeed puts an Adagrad of its own in its place, without groups of parameters"
_INDEXED = "it writes by masks, which torch's sharded tensors cannot"

OPTIMIZERS: dict[str, OptimizerSpec] = {
    "sgd": OptimizerSpec("torch.optim:SGD", ("momentum", "nesterov"), lambda optim: int(bool(optim.momentum))),
    "adam": OptimizerSpec("torch.optim:Adam", _ADAM, _adam),
    "adamw": OptimizerSpec("torch.optim:AdamW", _ADAM, _adam),
    "adamax": OptimizerSpec("torch.optim:Adamax", _ADAM),
    "nadam": OptimizerSpec("torch.optim:NAdam", _ADAM),
    "radam": OptimizerSpec("torch.optim:RAdam", _ADAM),
    "adagrad": OptimizerSpec("torch.optim:Adagrad", (), lambda optim: 1, not_under={"zero": _REPLACED}),
    "adadelta": OptimizerSpec("torch.optim:Adadelta"),
    "rmsprop": OptimizerSpec("torch.optim:RMSprop", ("eps",), _rmsprop),
    "asgd": OptimizerSpec("torch.optim:ASGD", (), lambda optim: 1),
    "rprop": OptimizerSpec("torch.optim:Rprop", decays=False, not_under={"fsdp": _INDEXED}),
    "adafactor": OptimizerSpec("torch.optim:Adafactor", (), lambda optim: 1, element_wise=False, full_state=False),
    # Of the matrices one tensor, of all else AdamW's two.
    "muon": OptimizerSpec("phalanx.train.optim.muon:Muon", ("betas", "eps"), element_wise=False),
    "lbfgs": OptimizerSpec("torch.optim:LBFGS", refused="it evaluates the loss several times in a step, which a run cannot"),
    "sparseadam": OptimizerSpec(
        "torch.optim:SparseAdam", refused="it needs sparse gradients, and networks here give dense ones"
    ),
}

# Those of timm that update each element by itself, unless one of the options below is set; tests/train/test_timm_optimizers.py.
_TIMM_ELEMENT_WISE = frozenset({
    "adabelief", "adadelta", "adagrad", "adam", "adamax", "adamc", "adamw", "adamwlegacy", "adan", "adanw", "adopt",
    "adoptc", "adoptw", "laprop", "lapropc", "lion", "lionc", "momentum", "nadam", "nadamc",
    "nadamlegacy", "nadamw", "nesterov", "nesterovw", "radabelief", "radam", "radamlegacy", "radamw", "rmsprop",
    "rmsproptf", "rmsproptfc", "rmsproptfw", "sgd", "sgdc", "sgdw",
})  # fmt: skip
_OF_A_PARAMETER = ("caution", "clipping_threshold")


def spec_of(optim: OptimConfig) -> OptimizerSpec:
    """What is known of the configured optimizer; of timm's and a user's own little, and two tensors are assumed."""
    if optim.name in OPTIMIZERS:
        return OPTIMIZERS[optim.name]
    if is_own(optim.name):
        return OptimizerSpec(optim.name, element_wise=False)
    element_wise = optim.name.removeprefix(TIMM) in _TIMM_ELEMENT_WISE and not any(map(optim.options.get, _OF_A_PARAMETER))
    return OptimizerSpec(optim.name, element_wise=element_wise)
