"""A rank that comes to harm ends the job in seconds, and `phalanx logs` opens with it."""

from pathlib import Path

import pytest

from tests.slurm.submitting import Job
from tests.support.slurm_cluster import VirtualCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("harm", ["raise", "kill", "memory", "hang"])
def test_the_job_ends_and_logs_opens_with_the_rank_that_came_to_harm(
    cluster: VirtualCluster, tmp_path: Path, harm: str
) -> None:
    # Only the hang is to be found by the watchdog: on busy cores, filling the memory takes longer than 5 s.
    hang_s = 5 if harm == "hang" else 120
    where = ["slurm.tasks_per_node=2", "slurm.max_requeues=0", "slurm.memory=3G", f"dist.hang_s={hang_s}"]
    job = Job(cluster, tmp_path, harm, *where, "train.steps=100000", "checkpoint.every_steps=5")
    job.until(lambda: job.step >= 6, "training")
    job.tell("harm-1", harm)
    took = job.until(lambda: job.over, "over")
    assert job.state == "FAILED", job.log
    shown = job.ask("logs").splitlines()
    told = "\n".join(shown[: next(n for n, line in enumerate(shown) if line.startswith("---"))])
    print(f"{harm}: over {took:.1f} s after the harm was told; logs opens with: {shown[0]}")
    if harm == "raise":
        assert shown[0].startswith("rank 1 on ") and "ZeroDivisionError: rank 1 breaks" in told and "my_task.py" in told
    elif harm == "kill":
        assert "task 1: Killed" in shown[0]
    elif harm == "memory":
        assert "memory limit" in shown[0] and "ran out of memory" in job.events[-1]["reason"]
    else:
        assert shown[0].startswith("rank 1 on ") and "time.sleep(1000)" in told
        assert job.events[-1]["reason"].startswith("a rank hung")
    assert job.events[-1]["event"] == "failure" and took < 90


@pytest.mark.timeout(300)
def test_a_node_with_broken_hardware_is_excluded_and_the_job_requeued(cluster: VirtualCluster, tmp_path: Path) -> None:
    job = Job(cluster, tmp_path, "ecc", "slurm.tasks_per_node=2", "train.steps=100000", "checkpoint.every_steps=5")
    job.until(lambda: job.step >= 6, "training")
    node = cluster.ask("squeue", "--noheader", "--format=%N", "--jobs", job.id)
    job.tell("harm-1", "ecc")
    job.until(lambda: f"ExcNodeList={node} " in cluster.ask("scontrol", "show", "job", "--oneliner", job.id), "excluded")
    job.ask("cancel")
    assert job.until_over() == "CANCELLED"
    (requeued,) = [event for event in job.events if event["event"] == "requeue"]
    assert requeued["reason"] == f"rank 1 on {node}: uncorrectable ECC error encountered" and requeued["exclude"] == node
    assert f"phalanx: {node} is excluded from now on." in job.log
