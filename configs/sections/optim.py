"""The sections `optim` and `schedule` of a recipe."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from phalanx.configs.optimizer_table import OPTIMIZERS, TIMM, spec_of
from phalanx.configs.own_code import is_own
from phalanx.configs.sections.section import REQUIRED, Factor, Int, Section, experiment


def _rising(value: list[float]) -> list[float]:
    if value != sorted(set(value)) or not all(number > 0 for number in value):
        raise ValueError("rising numbers above 0, such as [0.33, 0.67]")
    return value


def _optimizer(value: str) -> str:
    if value in OPTIMIZERS and OPTIMIZERS[value].refused:
        raise ValueError(f"another optimizer than {value}: {OPTIMIZERS[value].refused}")
    if value not in OPTIMIZERS and not is_own(value) and not value.startswith(TIMM):
        there = ", ".join(name for name, spec in OPTIMIZERS.items() if not spec.refused)
        raise ValueError(f"one of {there}, timm/NAME, or your own as ./file.py:Class")
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
    name: Optimizer = experiment(
        "sgd", "the optimizer: one of torch.optim in lower case, such as adamw; timm/NAME; or your own as ./file.py:Class"
    )
    options: dict[str, Any] = experiment({}, "other keyword arguments of the optimizer, such as {amsgrad: true}")
    lr: float = experiment(REQUIRED, "learning rate at the schedule's peak", gt=0)
    lr_scaling: Literal["linear", "sqrt"] | None = experiment(
        None, "scale lr with train.global_batch, linearly or by the square root, from base_batch on; null: lr is taken as it is"
    )
    base_batch: Int | None = experiment(None, "the global batch that lr is meant for, where lr_scaling is set", gt=0)
    weight_decay: float = experiment(0.0, "weight decay (decoupled for adamw and muon, L2 for most others)", ge=0)
    momentum: float | None = experiment(0.9, "momentum of sgd", ge=0, lt=1)
    nesterov: bool = experiment(False, "Nesterov momentum for sgd")
    betas: tuple[Beta, Beta] | None = experiment(
        (0.9, 0.999), "decay rates of the two moments of Adam and its kin; null: the optimizer's own"
    )
    eps: float | None = experiment(
        1e-8, "term added to the denominator of Adam and its kin, and of rmsprop; null: the optimizer's own", gt=0
    )
    no_decay: list[str] = experiment(
        [], "parameters without weight decay: patterns of their names, or the words norm (normalisation layers) and bias"
    )
    lr_factors: dict[str, Factor] = experiment(
        {}, "learning rate as a multiple of lr, by patterns of parameter names, such as {backbone.*: 0.1}; the last match wins"
    )
    layer_decay: float | None = experiment(
        None,
        "layer-wise learning rate decay for fine-tuning, such as 0.75: the rate of a block is that of the next one times this, "
        "and the head has lr",
        gt=0,
        le=1,
    )
    unfreeze: dict[str, Factor] = experiment(
        {},
        "gradual unfreezing: the epochs for which parameters keep their values, by patterns of their names, such as "
        "{backbone.*: 2}; the last match wins",
    )
    l1: float = experiment(0.0, "L1 penalty: this times the sign of each weight is added to its gradient", ge=0)
    l2: float = experiment(0.0, "L2 penalty: this times each weight is added to its gradient", ge=0)
    agc: float | None = experiment(
        None,
        "adaptive gradient clipping: the gradient of each output unit has at most this times the norm of its weights, such as "
        "0.01; off if null",
        gt=0,
    )
    no_agc: list[str] = experiment(
        [], "parameters that agc leaves alone, such as those of the last layer: patterns, such as fc.*"
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


SCHEDULES = (
    *("constant", "linear", "cosine", "polynomial", "exponential"),
    *("step", "multistep", "one_cycle", "plateau", "range_test"),
)
Unit = Literal["share", "steps", "epochs"]


class ScheduleConfig(Section):
    name: Schedule = experiment(
        "cosine",
        "shape of the learning rate after the warm-up: constant, linear, cosine, polynomial, exponential, step, multistep, "
        "one_cycle, plateau, range_test (rising, as `phalanx find-lr` has it), or your own as ./file.py:function",
    )
    options: dict[str, Any] = experiment({}, "keyword arguments of a schedule of your own")
    warmup_steps: Int = experiment(0, "steps of linear warm-up from lr / warmup_steps", ge=0)
    warmup_epochs: float | None = experiment(None, "the length of the warm-up in epochs, in place of warmup_steps", gt=0)
    warmup_from: float | None = experiment(
        None, "learning rate at the first step of the warm-up, as a share of lr; null: lr / warmup_steps", ge=0, lt=1
    )
    warmup_power: float = experiment(1.0, "shape of the warm-up: 1 is a line, 2 a parabola", gt=0)
    by_epoch: bool = experiment(False, "change the learning rate once an epoch, at its beginning, in place of every step")
    warmup_momentum: float | None = experiment(
        None, "momentum (adamw: the first beta) at the first step, rising to its full value during the warm-up", ge=0, lt=1
    )
    warmup_bias_lr: float | None = experiment(
        None, "learning rate of biases at the first step, approaching the common one during the warm-up", ge=0
    )
    steps: Int | None = experiment(
        None, "the step at which the schedule has reached its end, after which the rate stays; null: the run's last", gt=0
    )
    epochs: float | None = experiment(None, "the same in epochs", gt=0)
    unit: Unit = experiment("share", "what milestones and every count: shares of the schedule, steps of the run, or its epochs")
    power: float = experiment(0.9, "exponent of the polynomial schedule", gt=0)
    milestones: Milestones = experiment(
        [],
        "step and multistep: when the learning rate is multiplied by gamma, such as [0.33, 0.67], or [30, 60] with unit=epochs",
    )
    every: float | None = experiment(
        None,
        "step: after how much it is multiplied by gamma each time, such as 30 with unit=epochs, in place of milestones",
        gt=0,
    )
    gamma: float = experiment(
        0.1,
        "step, multistep: factor each time; exponential: per unit, and of the whole schedule for shares; plateau: factor",
        gt=0,
        lt=1,
    )
    final: float = experiment(0.0, "learning rate at the last step, as a share of lr; plateau: the least", ge=0, le=1)
    initial: float = experiment(0.04, "one_cycle, range_test: learning rate at the first step, as a share of lr", gt=0, le=1)
    peak: float = experiment(0.3, "one_cycle: when lr is reached, as a share of the schedule", gt=0, lt=1)
    cycle_momentum: tuple[Beta, Beta] | None = experiment(
        None, "one_cycle: momentum (adamw: the first beta) at the ends and at the peak, such as [0.95, 0.85]"
    )
    metric: str | None = experiment(None, "plateau: what is watched, such as val/loss; null: checkpoint.best")
    patience: Int = experiment(10, "plateau: evaluations without a better value that are endured", ge=0)
    threshold: float = experiment(1e-4, "plateau: what counts as better, relative to the best so far", ge=0)
    cooldown: Int = experiment(0, "plateau: evaluations after a reduction that do not count", ge=0)


def contradictions(optim: OptimConfig, schedule: ScheduleConfig) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for values that are allowed separately but not together."""
    yield from _of_schedule(schedule)
    spec = spec_of(optim)
    if optim.weight_decay and not spec.decays:
        yield "optim.weight_decay", f"optim.name={optim.name} has no weight decay. Set optim.weight_decay=0."
    if twice := sorted({"lr", "weight_decay", *spec.keys} & set(optim.options)):
        yield f"optim.options.{twice[0]}", f"optim.options.{twice[0]} is the key optim.{twice[0]}. Set that."
    if schedule.options and not is_own(schedule.name):
        yield "schedule.options", f"schedule.options are for a schedule of your own; {schedule.name} takes none. Remove them."
    if schedule.warmup_momentum is not None and spec.momentum(optim) is None:
        yield "schedule.warmup_momentum", f"schedule.warmup_momentum is not for optim.name={optim.name}. Remove it."
    for phase in optim.phases:
        try:
            yield from contradictions(optim.of_phase(phase), schedule)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, ("optim.phases", phase, *first["loc"])))
            yield key, f"{key}: {first['msg']}. Give keys of optim, with the values that they take there."
    if optim.unfreeze and optim.name == "rprop":
        yield "optim.unfreeze", "optim.unfreeze sets a learning rate of 0, which optim.name=rprop does not follow. Remove it."
    if optim.nesterov and not optim.momentum:
        yield "optim.nesterov", "Nesterov momentum needs optim.momentum above 0. Set one, or optim.nesterov=false."
    if (optim.lr_scaling is None) != (optim.base_batch is None):
        yield "optim.base_batch", "optim.lr_scaling and optim.base_batch go together. Set both, or neither."


def _of_schedule(schedule: ScheduleConfig) -> Iterator[tuple[str, str]]:
    name = schedule.name
    if name in ("one_cycle", "range_test") and (schedule.warmup_steps or schedule.warmup_epochs):
        yield "schedule.warmup_steps", f"schedule.name={name} has a warm-up of its own. Set schedule.warmup_steps=0."
    if name == "multistep" and not schedule.milestones:
        yield "schedule.milestones", "schedule.name=multistep needs schedule.milestones. Set them, such as [0.33, 0.67]."
    if name == "step" and not schedule.milestones and schedule.every is None:
        yield (
            "schedule.milestones",
            ("schedule.name=step needs schedule.milestones, such as [0.33, 0.67], or schedule.every, such as 0.25. Set one."),
        )
    if name == "step" and schedule.milestones and schedule.every is not None:
        yield "schedule.every", "schedule.every and schedule.milestones are two ways to say when. Remove one."
    if schedule.unit == "share" and [number for number in (*schedule.milestones, schedule.every or 0.5) if number >= 1]:
        yield (
            "schedule.unit",
            (
                "schedule.milestones and schedule.every are shares of the schedule, below 1, unless schedule.unit says "
                "steps or epochs. Set that."
            ),
        )
    for one, other in ("warmup_steps", "warmup_epochs"), ("steps", "epochs"):
        if getattr(schedule, one) and getattr(schedule, other):
            yield f"schedule.{other}", f"schedule.{one} and schedule.{other} are two ways to say how long. Remove one."
    for key in ("warmup_momentum", "warmup_bias_lr"):
        if getattr(schedule, key) is not None and not (schedule.warmup_steps or schedule.warmup_epochs):
            yield f"schedule.{key}", f"schedule.{key} needs a warm-up. Set schedule.warmup_steps, or leave it out."
