"""Learning rates are functions of the step."""

import pytest

from phalanx.configs.sections.optim import OptimConfig, ScheduleConfig
from phalanx.train.optim.schedules import learning_rate

OPTIM = OptimConfig(lr=2.0)


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    rate = learning_rate(OPTIM, ScheduleConfig(name="constant", warmup_steps=4), 100, 1.0)
    assert [rate(step) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(("name", "half"), [("cosine", 1.0), ("polynomial", 2 * 0.5**0.9)])
def test_curves_go_from_the_peak_down(name: str, half: float) -> None:
    rate = learning_rate(OPTIM, ScheduleConfig(name=name, warmup_steps=10), 110, 1.0)  # type: ignore[arg-type]
    assert rate(10) == 2.0 and rate(60) == pytest.approx(half) and 0 < rate(109) < 0.05 and rate(110) == 0.0


def test_the_last_share_is_what_was_asked_for() -> None:
    rate = learning_rate(OPTIM, ScheduleConfig(name="cosine", final=0.1), 50, 1.0)
    assert rate(50) == pytest.approx(0.2) and rate(1000) == pytest.approx(0.2)


def test_steps_multiply_by_gamma_at_shares_of_the_run_after_the_warm_up() -> None:
    rate = learning_rate(OPTIM, ScheduleConfig(name="step", milestones=[0.5, 0.75], gamma=0.1, warmup_steps=10), 110, 1.0)
    assert [rate(step) for step in (10, 59, 60, 84, 85, 110)] == pytest.approx([2, 2, 0.2, 0.2, 0.02, 0.02])
