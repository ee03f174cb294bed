"""What becomes of a job is decided by one pure function."""

from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from phalanx.dist.health.failure_report import is_echo
from phalanx.dist.storage.durable_files import write_json
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.slurm import cluster, excluding, failures
from phalanx.slurm.cluster import Node
from phalanx.slurm.ending import _fault, _killed_by_its_program
from phalanx.slurm.hardware_faults import hardware_fault, program_fault
from phalanx.slurm.parameters import ATTEMPT
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


def _but(**changes: Any) -> Ending:
    return Ending(**{**STOPPED.__dict__, **changes})


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
        (_but(code=1, fault="rank 1 on node1: uncorrectable ECC error", faulty="node1", failure="rank 0: x"), "requeue", 75),
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


def test_broken_hardware_keeps_the_job_off_its_node_and_uses_up_the_requeues() -> None:
    broken = {"code": 1, "fault": "rank 1 on node1: uncorrectable ECC error encountered", "faulty": "node1"}
    assert judge(_but(**broken)).exclude == "node1"
    assert judge(_but(**broken | {"faulty": None})).exclude is None
    again = judge(_but(**broken, progress=False, in_a_row=3))
    assert (again.action, again.exclude, again.code) == ("fail", None, 1)
    assert again.reason.startswith("rank 1 on node1: uncorrectable ECC error encountered, and 3 requeues")
    assert judge(_but(**broken, state="CANCELLED")).action == "leave"


CUDA = "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace may be incorrect."
NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3353, unhandled cuda error (run with NCCL_DEBUG=INFO for details)"
OF_CUDA = [
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
    "Invalid access of peer GPU memory over nvlink or a hardware error",
    "CUDA-capable device(s) is/are busy or unavailable",
    "system not yet initialized",
]
BLAMED = {f"CUDA error: {words}{CUDA}": words for words in OF_CUDA} | {
    f"{NCCL}\nLast error:\nCuda failure 214 'uncorrectable ECC error encountered'": "uncorrectable ECC error encountered",
    f"CUDA error: unknown error{CUDA}": "CUDA error: unknown error",
    "NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus.": "Xid (PCI:0000:3b:00): 79",
    "NET/IB : mlx5_0:1 async fatal event: local error\nmore": "NET/IB : mlx5_0:1 async fatal event: local error",
}
NOT_BLAMED = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB",
    f"CUDA error: out of memory{CUDA}",
    f"CUDA error: device-side assert triggered{CUDA}",
    f"CUDA error: an illegal memory access was encountered{CUDA}",
    f"CUDA error: unspecified launch failure{CUDA}",
    "[4711.2] NVRM: Xid (PCI:0000:3b:00): 31, pid=1, MMU Fault",
    "NCCL error in: x.cpp:1, remote process exited or there was a network error, NCCL version 2.30.7",
    "unknown error of mine",
    "KeyError: 'Xid 79'",
]


@pytest.mark.parametrize(("message", "words"), BLAMED.items(), ids=list(BLAMED.values()))
def test_these_messages_blame_the_hardware(message: str, words: str) -> None:
    assert hardware_fault(message) == words and program_fault(message) is None


@pytest.mark.parametrize("message", NOT_BLAMED)
def test_these_messages_do_not(message: str) -> None:
    assert hardware_fault(message) is None


def test_torch_s_own_messages_of_a_program_s_fault_end_the_job() -> None:
    assert [program_fault(message) is not None for message in NOT_BLAMED[:4]] == [True] * 4


def _reported(run: RunDirectory, rank: int, message: str, node: str = "node1", kind: str = "AcceleratorError") -> None:
    report = {"time": 1.0 + rank, "rank": rank, "host": "a.site", "node": node, "attempt": "7-0", "type": kind}
    write_json(run.errors / f"rank-{rank}.json", report | {"message": message, "echo": rank > 1, "traceback": []})


def test_the_node_of_the_first_rank_whose_report_blames_the_hardware_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.errors.mkdir()
    _reported(run, 0, "remote process exited or there was a network error", "node0")
    _reported(run, 1, f"CUDA error: uncorrectable ECC error encountered{CUDA}")
    _reported(run, 2, f"{NCCL}\nLast error:\nCuda failure 214 'uncorrectable ECC error encountered'", "node2")
    reported = failures.reports(run, "7-0")
    assert _fault(run, "7", reported, []) == ("rank 1 on node1: uncorrectable ECC error encountered", "node1")


def test_of_a_rank_that_was_aborted_the_last_words_and_srun_tell_fault_and_node(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for folder in (run.logs, run.slurm):
        folder.mkdir()
    failures.batch_log(run, "7").write_text(f"{ATTEMPT} 1 of job 7\nsrun: error: node3: tasks 4,6-7: Aborted (core dumped)\n")
    aborted = "[rank6]:[E ProcessGroupNCCL.cpp:2068] Process group watchdog thread terminated with exception: CUDA error: {}\n"
    log = run.logs / "rank-6.log"
    log.write_text(aborted.format("uncorrectable ECC error encountered"))
    assert _fault(run, "7", [], [5, 6]) == ("rank 6 on node3: uncorrectable ECC error encountered", "node3")
    with open(log, "a") as file:  # the next attempt's
        file.write(f"{ATTEMPT} 1 of job 7\n")
    assert _fault(run, "7", [], [5, 6]) == (None, None) and _killed_by_its_program(run, [5, 6]) is None
    with open(log, "a") as file:
        file.write(aborted.format("device-side assert triggered"))
    assert _fault(run, "7", [], [6]) == (None, None)
    assert _killed_by_its_program(run, [5, 6]) == "rank 6: device-side assert triggered"


def test_nccl_s_misuse_is_a_rank_s_own_failure_and_its_other_errors_follow_from_another_s() -> None:
    misuse = (
        "invalid usage (run with NCCL_DEBUG=WARN for details)\nncclInvalidUsage: This usually reflects invalid usage of NCCL"
    )
    assert not is_echo(torch.distributed.DistBackendError(misuse))
    remote = (
        "remote process exited or there was a network error\nncclRemoteError: A call failed possibly due to a network error"
    )
    system = "unhandled system error\nncclSystemError: System call (e.g. socket, malloc) or external library call failed"
    assert all(is_echo(torch.distributed.DistBackendError(message)) for message in (remote, system))


def test_a_node_is_only_excluded_where_enough_others_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Node(f"node{number}", partitions=frozenset({"gpu"}), usable=number != 3) for number in range(4)]
    monkeypatch.setattr(cluster, "nodes", lambda: (*nodes, Node("login", partitions=frozenset({"cpu"}))))
    for wanted, excluded, enough in (("2-2", {"node0"}, True), ("3", {"node0"}, False), ("2", {"node0", "node1"}, False)):
        assert excluding._has_enough({"Partition": "gpu", "NumNodes": wanted}, excluded) is enough
