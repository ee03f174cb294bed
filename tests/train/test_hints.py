"""What is allowed but seldom meant is said once, before the first step."""

import pytest
import torch

from phalanx.configs.load import load
from phalanx.dist import precision
from phalanx.train.setup.hints import average_without_ramp, late_watchdog, no_tensor_cores
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


@pytest.mark.parametrize(
    ("overrides", "world", "warns"),
    [
        ([], 2, False),
        (["dist.timeout_s=60"], 2, True),
        (["dist.timeout_s=60"], 1, False),
        (["dist.timeout_s=60", "dist.hang_s=0"], 2, False),
        (["dist.timeout_s=60", "dist.hang_s=30"], 2, False),
    ],
)
def test_a_watchdog_that_comes_after_the_timeout_of_collectives_says_so(overrides: list[str], world: int, warns: bool) -> None:
    hint = late_watchdog(load([DIGITS], overrides).dist, world)
    assert (hint is not None) == warns
    assert hint is None or hint.startswith("dist.hang_s=900 is not below dist.timeout_s=60: ")


def test_float32_on_a_gpu_with_faster_formats_says_so() -> None:
    hint = no_tensor_cores("fp32", "NVIDIA A100 (compute capability 8.0)")
    assert hint is not None and "tensor cores of NVIDIA A100 (compute capability 8.0); tf32 and bf16 do" in hint
    assert no_tensor_cores("tf32", "NVIDIA A100 (compute capability 8.0)") is None
    assert no_tensor_cores("fp32", precision.has_tensor_cores(torch.device("cpu"))) is None
