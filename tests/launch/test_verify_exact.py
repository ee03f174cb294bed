"""`phalanx verify-exact`: what differs first, and why. docs/verify-exact.md has the command itself check a recipe."""

from pathlib import Path

from phalanx.configs.load import load
from phalanx.launch.exactness import SETTINGS, ExactnessCheck, RunComparison, reason
from tests.support.running import DIGITS, forked, phalanx

SHORT = ["--ranks", "1", "2", "--steps", "2"]


class Forked(ExactnessCheck):
    """Its runs are forked ranks, in place of commands."""

    def _train(self, name: str, count: int, kill_after: int | None = None) -> None:
        overrides = [f"name={name}", f"runs={self._folder}", *SETTINGS]
        running = forked(*self._arguments, *overrides, "--stop-at", str(self._length), cwd=self._folder, count=count)
        if kill_after is None:
            assert running.wait() == 75, running.errors
        else:
            running.until(lambda: (self._folder / name / f"checkpoints/step-{kill_after:08d}").exists())
            running.kill_all()


def _checked(folder: Path, how: str) -> list[RunComparison]:
    folder.mkdir()
    return list(Forked([DIGITS, "dist.sync_bn=all", f"dist.reduce={how}"], [1, 2], 2, folder).run())


def test_what_differs_first_is_named(tmp_path: Path) -> None:
    exact, fast = _checked(tmp_path / "exact", "exact"), _checked(tmp_path / "fast", "fast")
    assert [found.label for found in exact] == ["1 rank", "2 ranks", "2, killed, then 1"] and all(f.equal for f in exact)
    assert [found.equal for found in fast] == [True, False, False]
    assert fast[1].sentence.startswith("step 1: the forward differs up to the BatchNorm layer bn1: bn1.running_mean")


def test_an_earlier_check_is_kept(tmp_path: Path) -> None:
    (tmp_path / "runs/digits-verify-exact").mkdir(parents=True)
    assert "is there already" in phalanx("verify-exact", DIGITS, *SHORT, cwd=tmp_path, expect=2).errors
    assert "Give at least 2." in phalanx("verify-exact", DIGITS, "--steps", "1", cwd=tmp_path, expect=2).errors


def test_a_run_that_fails_is_shown(tmp_path: Path) -> None:
    failed = phalanx("verify-exact", DIGITS, "data.root=nowhere", "data.name=image_folder", *SHORT, cwd=tmp_path, expect=2)
    assert "the run on 1 rank failed" in failed.errors and "nowhere" in failed.errors and "Traceback" not in failed.errors


def test_the_reason_is_told_from_a_repetition_on_as_many_ranks() -> None:
    exact = load([DIGITS], ["dist.reduce=exact"])
    repeated = RunComparison("1 rank again", False, "step 1: the gradients or the update of head differ")
    assert "an operation is not deterministic" in reason(exact, repeated)
    assert "something depends on the ranks" in reason(exact, RunComparison("1 rank again", True, ""))
