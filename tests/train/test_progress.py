"""The line that tells how far a run is."""

import io
import time
from pathlib import Path

import pytest

from phalanx.train.evaluation.worst_classes import worst_classes
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


def test_a_quiet_run_says_what_needs_attention_and_its_log_has_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_QUIET", "1")
    out, log = io.StringIO(), tmp_path / "logs/rank-0.log"
    progress = ProgressLine(4, 0, shown=True, out=out, log=log)
    progress.step(2, {"loss": 1.0}, due=True)
    progress.say("phalanx: the disk is full")
    assert out.getvalue() == "phalanx: the disk is full\n"
    assert [line[:10] for line in log.read_text().splitlines()] == ["step 2/4  ", "phalanx: t"]
    ProgressLine(4, 0, shown=False, out=out, log=tmp_path / "none/rank-1.log").say("nothing")
    assert not (tmp_path / "none").exists()
    log.unlink()
    log.mkdir()
    progress.say("step 3")
    progress.say("step 4")
    assert out.getvalue().count("lines of the output are no longer kept there") == 1


def test_the_worst_classes_are_named() -> None:
    values = zip("abcdef", (0.5, 0.25, None, 0.75, 0.125, 1.0), strict=True)
    rows = [{"class": name, "pixels": 5, "iou": value} for name, value in values]
    assert worst_classes({"per_class": rows}) == "worst classes by iou: e 0.1250, b 0.2500, a 0.5000"
    assert worst_classes({"per_class": rows[:4]}) is None and worst_classes({}) is None
    assert worst_classes({"per_class": [{"class": "a", "score": 1.0}] * 9}) is None
