"""What is allowed but seldom meant is said once, before the first step."""

import pytest

from phalanx.configs.load import load
from phalanx.train.setup.hints import average_without_ramp
from tests.support.running import DIGITS


@pytest.mark.parametrize(
    ("overrides", "steps", "has_statistics", "said"),
    [
        (["train.ema=0.995"], 250, False, "29% of the average will still be the initial weights after 250 steps, so that"),
        (["train.ema=0.995"], 250, True, "initial weights after 250 steps, and BatchNorm's statistics are not averaged"),
        (["train.ema=0.9999"], 100_000, True, "without train.ema_ramp: BatchNorm's statistics are not averaged"),
        (["train.ema=0.9999"], 100_000, False, None),  # long, and nothing but weights
        (["train.ema=0.995", "train.ema_ramp=80"], 250, True, None),
        ([], 250, True, None),
    ],
)
def test_an_average_that_may_be_far_worse_than_the_weights_says_so(
    overrides: list[str], steps: int, has_statistics: bool, said: str | None
) -> None:
    hint = average_without_ramp(load([DIGITS], overrides).train, steps, has_statistics)
    assert (hint is None) == (said is None) and (said or "") in (hint or "")
    assert hint is None or f"Set train.ema_ramp={min(2000, steps // 3)} " in hint
