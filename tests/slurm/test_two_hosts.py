"""Two hosts with networks of their own: a link that is cut, and walls between ranks. Not in the usual run of the tests:

PHALANX_TWO_HOSTS=1 python -m pytest -s tests/slurm/test_two_hosts.py

Besides SLURM it needs iproute2 and iptables.
"""

import os
import re
import time
from pathlib import Path

import pytest

from tests.slurm.submitting import RECIPE, Job
from tests.support.running import assert_bitwise, phalanx, sample_ids
from tests.support.slurm_cluster import VirtualCluster, insist

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("PHALANX_TWO_HOSTS") != "1", reason="PHALANX_TWO_HOSTS=1 is not set: it takes minutes"),
]
WHERE = ["slurm.nodes=2", "dist.timeout_s=60", "dist.hang_s=30"]
REMEDY = "Exclude the node (slurm.exclude), or set dist.interface to another network."


def test_a_link_that_is_cut_in_mid_run_costs_a_requeue_and_nothing_else(tmp_path: Path) -> None:
    insist()
    length = ["train.steps=40", "checkpoint.every_steps=5"]
    with VirtualCluster(hosts=True) as cluster:
        job = Job(cluster, tmp_path, "parted", *length, *WHERE, "slurm.tasks_per_node=1")

        def requeued() -> bool:
            return "Restarts=1" in cluster.ask("scontrol", "show", "job", "--oneliner", job.id)

        job.tell("slowly", "0.3")
        job.until(lambda: job.step >= 7, "training")
        cluster.link("cut", 1)
        print(f"\nrequeued {job.until(requeued, 'requeued', 300):.0f} s after the cut")
        cluster.link("mend", 1)
        resumed = job.until(lambda: job.count("resume") == 1, "resuming", 300)
        print(f"resumed {resumed:.0f} s later; SLURM holds a requeued job for 75 s here")
        assert job.until_over(300) == "COMPLETED", job.log
        assert requeued()
    assert job.count("resume") == 1
    phalanx("train", *RECIPE, *length, "name=unbroken", cwd=tmp_path)
    assert_bitwise(job.path, tmp_path / "runs/unbroken")
    assert sample_ids(job.path) == sample_ids(tmp_path / "runs/unbroken")


def test_nodes_that_do_not_reach_each_other_are_named_within_a_minute(tmp_path: Path) -> None:
    """Where SLURM itself reaches them all: first node0's ranks do not reach node1, then node1 not even the store on node0."""
    insist()
    with VirtualCluster(hosts=True) as cluster:
        cluster.link("wall", 0, 1)
        _apart(cluster, tmp_path, "one-way", 1, r"node0 \(rank 0\) cannot reach node1 \(rank 1\) at 10.77.0.11: timed out")
        cluster.link("wall", 1, 0)
        # More ranks than one a node: they all end, those that speak for no node too.
        _apart(cluster, tmp_path, "no-way", 2, r"node1 \(rank [23]\) cannot reach node0 \(rank 0\) at 10.77.0.10: timed out")


def _apart(cluster: VirtualCluster, folder: Path, name: str, ranks_per_node: int, sentence: str) -> None:
    length = ["train.steps=4", "slurm.max_requeues=0", f"slurm.tasks_per_node={ranks_per_node}"]
    job = Job(cluster, folder, name, *WHERE, *length)
    last = 2 * ranks_per_node - 1
    job.until(lambda: (job.path / f"logs/rank-{last}.log").exists(), "started")
    begun = time.monotonic()
    job.until(lambda: job.over, "over", 200)
    seconds = time.monotonic() - begun
    told = job.ask("logs")
    print(f"\n{name}: over {seconds:.0f} s after the ranks' start, told:\n{told}")
    assert re.match(rf"{sentence}\. {re.escape(REMEDY)}\n", told)
    assert job.state == "FAILED" and seconds < 60  # what is promised; other work on the machine counts in
    assert re.match(f"{sentence}, and 0 requeues", job.events[-1]["reason"])
