"""What becomes of a job is decided by one pure function."""

import pytest

from phalanx.slurm.verdict import Ending, judge

STOPPED = Ending(
    code=75,
    state="RUNNING",
    preempted=False,
    hung=False,
    failure=None,
    lost=(),
    out_of_memory=False,
    progress=True,
    in_a_row=0,
    most=3,
)


def _but(**changes: object) -> Ending:
    return Ending(**{**STOPPED.__dict__, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ending", "action", "code"),
    [
        (_but(code=0), "done", 0),
        (STOPPED, "requeue", 75),
        (_but(preempted=True), "requeue", 75),
        (_but(state="COMPLETING"), "leave", 75),
        (_but(code=1, failure="rank 1: ZeroDivisionError: x"), "fail", 1),
        (_but(code=2), "fail", 2),
        (_but(code=137, lost=(1,)), "requeue", 75),
        (_but(code=137, lost=(1,), out_of_memory=True), "fail", 1),
        (_but(code=1), "requeue", 75),
        (_but(hung=True), "requeue", 75),
        (_but(code=1, apart="node1 cannot reach node0"), "requeue", 75),
    ],
)
def test_only_what_another_try_may_mend_is_requeued(ending: Ending, action: str, code: int) -> None:
    verdict = judge(ending)
    assert (verdict.action, verdict.code) == (action, code)


def test_requeues_without_progress_come_to_an_end_and_progress_begins_anew() -> None:
    in_a_row = 0
    for expected in (1, 2, 3):
        verdict = judge(_but(code=137, lost=(0,), progress=False, in_a_row=in_a_row))
        assert (verdict.action, verdict.in_a_row) == ("requeue", expected)
        in_a_row = verdict.in_a_row
    given_up = judge(_but(code=137, lost=(0,), progress=False, in_a_row=in_a_row))
    assert (given_up.action, given_up.code) == ("fail", 1)
    assert "3 requeues in a row made no progress" in given_up.reason
    assert judge(_but(code=137, lost=(0,), progress=True, in_a_row=3)).in_a_row == 1
    apart = judge(_but(code=1, progress=False, in_a_row=3, apart="node1 cannot reach node0"))
    assert apart.action == "fail" and apart.reason.startswith("node1 cannot reach node0, and 3 requeues")


def test_preemption_never_uses_up_the_requeues() -> None:
    assert judge(_but(preempted=True, progress=False, in_a_row=3)).action == "requeue"


def test_a_rank_that_hangs_again_without_progress_is_not_requeued_again() -> None:
    once = judge(_but(hung=True, progress=False))
    assert once.action == "requeue"
    assert judge(_but(hung=True, progress=False, in_a_row=once.in_a_row)).action == "fail"
