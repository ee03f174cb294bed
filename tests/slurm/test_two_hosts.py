"""Two hosts with networks of their own: a link that is cut. Not in the usual run of the tests:

PHALANX_TWO_HOSTS=1 python -m pytest tests/slurm/test_two_hosts.py
"""

import os
import time
from pathlib import Path

import pytest

from tests.running import assert_bitwise, phalanx, sample_ids
from tests.slurm.submitting import RECIPE, Job
from tests.slurm_cluster import VirtualCluster, insist

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("PHALANX_TWO_HOSTS") != "1", reason="PHALANX_TWO_HOSTS=1 is not set: it takes minutes"),
]
WHERE = ["slurm.nodes=2", "slurm.tasks_per_node=1", "dist.timeout_s=60", "dist.hang_s=20"]


def test_a_link_that_is_cut_in_mid_run_costs_a_requeue_and_nothing_else(tmp_path: Path) -> None:
    insist()
    length = ["train.steps=40", "checkpoint.every_steps=5"]
    with VirtualCluster(tmp_path / "cluster", hosts=True) as cluster:
        job = Job(cluster, tmp_path, "parted", *length, *WHERE)
        job.tell("slowly", "0.3")
        job.until(lambda: job.step >= 7, "training")
        cluster.link("cut", 1)
        cut = time.monotonic()
        job.until(lambda: "Restarts=1" in cluster.ask("scontrol", "show", "job", "--oneliner", job.id), "requeued", 300)
        print(f"requeued {time.monotonic() - cut:.0f} s after the cut")
        cluster.link("mend", 1)
        job.until(lambda: job.count("resume") == 1, "going on", 300)
        assert job.until_over(300) == "COMPLETED", job.log
    phalanx("train", *RECIPE, *length, "name=unbroken", cwd=tmp_path)
    assert_bitwise(job.path, tmp_path / "runs/unbroken")
    assert sample_ids(job.path) == sample_ids(tmp_path / "runs/unbroken")


def test_a_node_that_cannot_reach_the_others_is_named_within_a_minute(tmp_path: Path) -> None:
    """The nodes' daemons reach the controller, but not each other."""
    insist()
    with VirtualCluster(tmp_path / "cluster", hosts=True) as cluster:
        wall = ["ip", "netns", "exec", "phalanx1", "ip", "route", "add", "blackhole", "10.77.0.10/32"]
        cluster.ask(*wall)
        job = Job(cluster, tmp_path, "apart", *WHERE, "train.steps=4", "slurm.max_requeues=0", "slurm.setup=[sleep 1]")
        job.until(lambda: (job.path / "logs/rank-1.log").exists(), "started")
        begun = time.monotonic()
        job.until(lambda: job.over, "over", 200)
        print(f"over {time.monotonic() - begun:.0f} s after the ranks' start")
        told = job.ask("logs")
        assert "node1 (rank 1) cannot reach node0 (rank 0) at 10.77.0.10" in told
        assert job.state == "FAILED"
