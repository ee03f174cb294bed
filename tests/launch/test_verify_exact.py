"""`phalanx verify-exact`: what differs first, and why. A recipe without differences is checked by docs/verify-exact.md."""

from pathlib import Path

from phalanx.configs.load import load
from phalanx.launch.exactness import Found, reason
from tests.support.running import DIGITS, phalanx

SHORT = ["--ranks", "1", "2", "--steps", "2"]


def test_what_differs_first_is_named_and_why(tmp_path: Path) -> None:
    fast = phalanx("verify-exact", DIGITS, "dist.sync_bn=all", *SHORT, "--keep", cwd=tmp_path, expect=1)
    assert "DIFFERS  step 1: the forward differs up to the BatchNorm layer bn1: bn1.running_mean" in fast.output
    assert "Set dist.reduce=exact." in fast.output and (tmp_path / "runs/digits-verify-exact/first").is_dir()
    again = phalanx("verify-exact", DIGITS, *SHORT, cwd=tmp_path, expect=2)
    assert "is there already" in again.errors


def test_a_run_that_fails_is_shown(tmp_path: Path) -> None:
    failed = phalanx("verify-exact", DIGITS, "data.root=nowhere", "data.name=image_folder", *SHORT, cwd=tmp_path, expect=2)
    assert "the run on 1 rank failed" in failed.errors and "nowhere" in failed.errors and "Traceback" not in failed.errors


def test_the_reason_is_told_from_a_repetition_on_as_many_ranks() -> None:
    exact = load([DIGITS], ["dist.reduce=exact"])
    repeated = Found("1 rank again", False, "step 1: the gradients or the update of head differ")
    assert "an operation is not deterministic" in reason(exact, repeated)
    assert "something depends on the ranks" in reason(exact, Found("1 rank again", True, ""))
