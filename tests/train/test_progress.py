"""The line that tells how far a run is."""

import io
import time

import pytest

from phalanx.train.tracking.progress import ProgressLine, duration


def test_steps_whose_figures_come_at_once_do_not_make_the_rate_a_thousandfold(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 2.001, 2.002])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    progress = ProgressLine(4, 0, shown=True, out=out)
    for step in (1, 2, 3, 4):
        progress.step(step, {"loss": 0.5}, due=True)
    rates = [float(line.split(" steps/s")[0].rpartition(" ")[2]) for line in out.getvalue().splitlines()]
    assert rates == pytest.approx([1, 1, 2, 3], abs=0.01)


def test_a_duration_has_hours_only_where_there_are_any() -> None:
    assert [duration(seconds) for seconds in (7, 75, 3600)] == ["0:07", "1:15", "1:00:00"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_logged_steps_stay_and_what_is_under_way_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    out = Terminal()
    progress = ProgressLine(9, 0, shown=True, out=out)
    for step in (1, 2, 3):
        progress.step(step, {"loss": 0.5}, due=step == 3)
    progress.part("evaluation", 1, 7)
    progress.part("evaluation", 7, 7)
    progress.say("step 3: validation: top1 0.5")
    shown = [line.split("\r\033[K")[-1] for line in out.getvalue().split("\n")]
    assert shown[0].startswith("step 3/9") and shown[1:] == ["step 3: validation: top1 0.5", ""]
    assert "evaluation: 7 of 7 batches" in out.getvalue()
    progress.part("evaluation", 1, 1)
    progress.clear()
    assert out.getvalue().endswith("\r\033[K")
    plain = io.StringIO()
    ProgressLine(9, 0, shown=True, out=plain).part("evaluation", 1, 1)
    assert not plain.getvalue()
