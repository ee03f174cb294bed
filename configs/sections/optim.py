"""The sections `optim` and `schedule` of a recipe."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from phalanx.configs.own_code import is_own
from phalanx.configs.sections.section import REQUIRED, Factor, Int, Section, experiment


def _rising(value: list[float]) -> list[float]:
    if value != sorted(set(value)) or not all(0 < share < 1 for share in value):
        raise ValueError("rising numbers between 0 and 1, such as [0.33, 0.67]")
    return value


def _optimizer(value: str) -> str:
    if value not in OPTIMIZERS and not is_own(value):
        raise ValueError(f"one of {', '.join(OPTIMIZERS)}, or your own as ./file.py:Class")
    return value


def _schedule(value: str) -> str:
    if value not in SCHEDULES and not is_own(value):
        raise ValueError(f"one of {', '.join(SCHEDULES)}, or your own as ./file.py:function")
    return value


Optimizer = Annotated[str, AfterValidator(_optimizer)]
Schedule = Annotated[str, AfterValidator(_schedule)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Milestones = Annotated[list[float], AfterValidator(_rising)]


class OptimConfig(Section):
    name: Optimizer = experiment("sgd", "the optimizer: sgd, adam, adamw, or your own as ./file.py:Class")
    options: dict[str, Any] = experiment({}, "keyword arguments of an optimizer of your own")
    lr: float = experiment(REQUIRED, "learning rate at the schedule's peak", gt=0)
    weight_decay: float = experiment(0.0, "weight decay (decoupled for adamw, L2 for sgd and adam)", ge=0)
    momentum: float = experiment(0.9, "momentum of sgd", ge=0, lt=1)
    nesterov: bool = experiment(False, "Nesterov momentum for sgd")
    betas: tuple[Beta, Beta] = experiment((0.9, 0.999), "decay rates of the two moments of adam and adamw")
    eps: float = experiment(1e-8, "term added to the denominator of adam and adamw", gt=0)
    no_decay: list[str] = experiment(
        [], "parameters without weight decay: patterns of their names, or the words norm (normalisation layers) and bias"
    )
    lr_factors: dict[str, Factor] = experiment(
        {}, "learning rate as a multiple of lr, by patterns of parameter names, such as {backbone.*: 0.1}; the last match wins"
    )
    phases: dict[str, dict[str, Any]] = experiment(
        {}, "for tasks of several phases: keys of optim that differ in one, such as {discriminator: {lr: 4e-4}}"
    )

    def of_phase(self, name: str) -> "OptimConfig":
        """The settings of a phase.

        Raises:
            pydantic.ValidationError: if `phases` has a wrong key or value for it.
        """
        return OptimConfig.model_validate(self.model_dump() | self.phases.get(name, {}) | {"phases": {}})


@dataclass(frozen=True)
class OptimizerSpec:
    """What is known of an optimizer without torch; what makes it is in `train/optim/optimizers.py`.

    Attributes:
        keys: keys of `optim` that it reads besides `lr` and `weight_decay`.
        momentum: the value that `schedule.warmup_momentum` rises to: SGD's momentum, the first beta of Adam.
        state_tensors: how many tensors of a parameter's size it keeps for each parameter.
    """

    keys: tuple[str, ...]
    momentum: Callable[[OptimConfig], float]
    state_tensors: Callable[[OptimConfig], int]


OPTIMIZERS: dict[str, OptimizerSpec] = {
    "sgd": OptimizerSpec(("momentum", "nesterov"), lambda optim: optim.momentum, lambda optim: int(optim.momentum > 0)),
    "adam": OptimizerSpec(("betas", "eps"), lambda optim: optim.betas[0], lambda optim: 2),
    "adamw": OptimizerSpec(("betas", "eps"), lambda optim: optim.betas[0], lambda optim: 2),
}
_OWN = OptimizerSpec((), lambda optim: 0.0, lambda optim: 2)
SCHEDULES = ("constant", "cosine", "polynomial", "step")


def spec_of(name: str) -> OptimizerSpec:
    """What is known of an optimizer; of a user's own nothing, and two tensors are assumed."""
    return OPTIMIZERS.get(name, _OWN)


class ScheduleConfig(Section):
    name: Schedule = experiment(
        "cosine",
        "shape of the learning rate after the warm-up: constant, cosine, polynomial, step, or your own as ./file.py:function",
    )
    options: dict[str, Any] = experiment({}, "keyword arguments of a schedule of your own")
    warmup_steps: Int = experiment(0, "steps of linear warm-up from lr / warmup_steps", ge=0)
    warmup_momentum: float | None = experiment(
        None, "momentum (adamw: the first beta) at the first step, rising to its full value during the warm-up", ge=0, lt=1
    )
    warmup_bias_lr: float | None = experiment(
        None, "learning rate of biases at the first step, approaching the common one during the warm-up", ge=0
    )
    power: float = experiment(0.9, "exponent of the polynomial schedule", gt=0)
    milestones: Milestones = experiment(
        [], "step: when the learning rate is multiplied by gamma, as shares of the run, such as [0.33, 0.67]"
    )
    gamma: float = experiment(0.1, "step: factor at each milestone", gt=0, lt=1)
    final: float = experiment(0.0, "learning rate at the last step, as a share of lr", ge=0, le=1)


def contradictions(optim: OptimConfig, schedule: ScheduleConfig) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for values that are allowed separately but not together."""
    if schedule.name == "step" and not schedule.milestones:
        yield "schedule.milestones", "schedule.name=step needs schedule.milestones. Set them, such as [0.33, 0.67]."
    for key in ("warmup_momentum", "warmup_bias_lr"):
        if getattr(schedule, key) is not None and not schedule.warmup_steps:
            yield f"schedule.{key}", f"schedule.{key} needs a warm-up. Set schedule.warmup_steps, or leave it out."
    if optim.options and not is_own(optim.name):
        yield "optim.options", f"optim.options are for an optimizer of your own; {optim.name} takes none. Remove them."
    if schedule.options and not is_own(schedule.name):
        yield "schedule.options", f"schedule.options are for a schedule of your own; {schedule.name} takes none. Remove them."
    if schedule.warmup_momentum is not None and is_own(optim.name):
        yield "schedule.warmup_momentum", f"schedule.warmup_momentum is not for optim.name={optim.name}. Remove it."
    for phase in optim.phases:
        try:
            yield from contradictions(optim.of_phase(phase), schedule)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, ("optim.phases", phase, *first["loc"])))
            yield key, f"{key}: {first['msg']}. Give keys of optim, with the values that they take there."
    if optim.nesterov and not optim.momentum:
        yield "optim.nesterov", "Nesterov momentum needs optim.momentum above 0. Set one, or optim.nesterov=false."
