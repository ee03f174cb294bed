"""After which steps a run is evaluated."""

from phalanx.configs.load import load
from phalanx.train.run import Due
from tests.support.running import DIGITS


def _evaluated(last_step: int, samples: int, *given: str) -> list[int]:
    config = load([DIGITS], ["train.global_batch=8", "train.micro_batch=2", "train.eval_every=null", *given])
    due = Due.of(config, last_step, samples)
    return [step for step in range(1, last_step + 1) if due.evaluation(step)]


def test_the_last_epochs_are_evaluated_one_by_one() -> None:
    """As in YOLOX: every so many epochs, and after each of the last ones. An epoch ends within a step."""
    assert _evaluated(20, 16) == [20]
    assert _evaluated(20, 16, "train.eval_last_epochs=3") == [16, 18, 20]
    assert _evaluated(20, 16, "train.eval_every=8", "train.eval_last_epochs=3") == [8, 16, 18, 20]
    # Epochs of 2.5 steps end within the steps 3, 5, 8, 10, 13, 15, 18, 20.
    assert _evaluated(20, 20, "train.eval_last_epochs=4") == [13, 15, 18, 20]
    assert _evaluated(19, 20, "train.eval_last_epochs=4") == [13, 15, 18, 19]  # about eight epochs
    assert _evaluated(3, 2, "train.eval_last_epochs=2") == [3]  # several epochs a step
