"""Every schedule equals its formula at each step; where torch has the schedule, torch's."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from phalanx.configs.load import load
from phalanx.configs.sections.optim import SCHEDULES, ScheduleConfig
from phalanx.train.optim import schedules
from phalanx.train.optim.plateau import Plateau
from tests.support.running import DIGITS

STEPS, EPOCH, RATE = 40, 8.0, 0.5


def rates(*overrides: str, steps: int = STEPS) -> list[float]:
    config = load([DIGITS], ["schedule.warmup_steps=0", f"optim.lr={RATE}", f"train.steps={STEPS}", *overrides])
    optim = schedules.scaled(config.optim, config.train.global_batch)
    at = schedules.learning_rate(optim, config.schedule, STEPS, EPOCH)
    return [at(step) for step in range(steps)]


def of_torch(make: Callable[[torch.optim.Optimizer], Any], steps: int = STEPS) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def _named(name: str, **keys: Any) -> list[str]:
    return [f"schedule.name={name}", *(f"schedule.{key}={value}" for key, value in keys.items())]


SAME: list[tuple[list[str], Callable[[torch.optim.Optimizer], Any]]] = [
    (_named("constant"), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    (_named("linear", final=0.1), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, STEPS)),
    (_named("cosine"), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS)),
    (_named("cosine", final=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1 * RATE)),
    (_named("polynomial", power=0.9), lambda o: lr_scheduler.PolynomialLR(o, STEPS, power=0.9)),
    (_named("exponential", unit="steps", gamma=0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    (_named("step", unit="steps", every=7, gamma=0.3), lambda o: lr_scheduler.StepLR(o, 7, 0.3)),
    (_named("step", milestones=[0.25, 0.5]), lambda o: lr_scheduler.MultiStepLR(o, [10, 20], 0.1)),
    (_named("multistep", unit="steps", milestones=[9, 31]), lambda o: lr_scheduler.MultiStepLR(o, [9, 31], 0.1)),
    (_named("multistep", unit="epochs", milestones=[1, 3.5]), lambda o: lr_scheduler.MultiStepLR(o, [8, 28], 0.1)),
    (_named("one_cycle", final=4e-6), lambda o: lr_scheduler.OneCycleLR(o, RATE, STEPS, cycle_momentum=False)),
    (
        _named("one_cycle", initial=0.1, peak=0.45, final=0.001),
        lambda o: lr_scheduler.OneCycleLR(
            o, RATE, STEPS, pct_start=0.45, div_factor=10, final_div_factor=100, cycle_momentum=False
        ),
    ),
]


@pytest.mark.parametrize(("given", "make"), SAME, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_schedule_is_that_of_torch(given: list[str], make: Callable[[torch.optim.Optimizer], Any]) -> None:
    assert rates(*given) == pytest.approx(of_torch(make), rel=1e-9, abs=1e-15)


def test_every_schedule_is_tried() -> None:
    tried = {given[0].removeprefix("schedule.name=") for given, _ in SAME}
    assert set(SCHEDULES) - tried == {"plateau", "range_test"}


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ("plateau", "one_cycle", "range_test")])
def test_a_warm_up_comes_before_any_of_them_in_steps_or_in_epochs(name: str) -> None:
    where = {"step": ["schedule.every=0.5"], "multistep": ["schedule.milestones=[0.5]"]}.get(name, [])
    in_steps = rates(f"schedule.name={name}", "schedule.warmup_steps=16", *where)
    assert in_steps == rates(f"schedule.name={name}", "schedule.warmup_epochs=2", *where)
    assert in_steps[:16] == pytest.approx([RATE * (step + 1) / 16 for step in range(16)])


def test_after_its_end_a_schedule_stays_where_it_is() -> None:
    """A cool-down: the schedule ends before the run does, in steps or in epochs."""
    short = rates("schedule.name=cosine", "schedule.final=0.2", "schedule.epochs=3")
    assert short == rates("schedule.name=cosine", "schedule.final=0.2", "schedule.steps=24")
    assert short[24:] == pytest.approx([0.2 * RATE] * 16) and short[23] > 0.2 * RATE


def test_milestones_of_a_run_are_counted_from_its_first_step() -> None:
    found = rates("schedule.name=multistep", "schedule.unit=epochs", "schedule.milestones=[2]", "schedule.warmup_epochs=1")
    assert found[15] == RATE and found[16] == pytest.approx(0.1 * RATE)


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 4.0), ("sqrt", 2.0)])
def test_the_rate_is_scaled_with_the_global_batch_where_that_is_asked(scaling: str, factor: float) -> None:
    scaled = rates("train.global_batch=64", f"optim.lr_scaling={scaling}", "optim.base_batch=16")
    assert scaled == pytest.approx([factor * rate for rate in rates("train.global_batch=64")])


@pytest.mark.parametrize("larger", [False, True])
def test_on_a_plateau_the_rate_is_lowered_as_torch_does(larger: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.rand(60, generator=generator) * torch.linspace(1, 0.5, 60) + 1).tolist()
    values = [-value + 4 if larger else value for value in values]
    own = Plateau(ScheduleConfig(name="plateau", gamma=0.5, patience=2, threshold=0.01, cooldown=1, final=0.01), larger)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, "max" if larger else "min", factor=0.5, patience=2, threshold=0.01, cooldown=1, min_lr=0.01
    )
    for step, value in enumerate(values, 1):
        own.add(step, value)
        theirs.step(value)
        assert own.factor == optimizer.param_groups[0]["lr"], step
    assert own.factor < 0.1


def test_an_evaluation_counts_once_and_nan_is_never_better() -> None:
    plateau = Plateau(ScheduleConfig(name="plateau", patience=1), larger=False)
    for step, value in enumerate([1.0, math.nan, math.nan], 1):
        plateau.add(step, value)
        plateau.add(step, 0.1)
    assert plateau.factor == 0.1
