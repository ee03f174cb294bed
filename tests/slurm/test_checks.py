"""Checks before a job is queued: what is refused, by which figures, and what to change."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.slurm.cluster import Association, Cluster, Node, Partition
from phalanx.slurm.file_system import FileSystem, place
from phalanx.slurm.findings import Findings
from phalanx.slurm.submit_checks import check, judge
from tests.support.running import DIGITS
from tests.support.slurm_cluster import VirtualCluster

GIGABYTE = 2**30
SHARED = FileSystem(Path("/home/me/runs/digits"), "nfs4")
LOGIN = "login1"

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:25 / /tmp rw shared:2 - tmpfs tmpfs rw
24 22 0:30 / /home rw shared:3 - nfs4 server:/home rw
25 22 0:31 / /my\\040data rw shared:4 - lustre mds:/data rw
26 24 0:32 / /home/me/cache rw shared:5 - tmpfs tmpfs rw
"""


def a_node(name: str, partition: str, *features: str, **more: Any) -> Node:
    sizes: dict[str, Any] = {"gpus": 4, "cpus": 32, "memory": 256 * GIGABYTE} | more
    return Node(name, name, f"10.0.0.{name[-1]}", frozenset([partition]), frozenset(features), **sizes)


def a_partition(name: str, **more: Any) -> Partition:
    sizes: dict[str, Any] = {"nodes": 2, "gpus": 4, "cpus": 32, "memory": 256 * GIGABYTE, "time_s": 86400} | more
    return Partition(name, **sizes)


# Two partitions; in one of them the nodes differ.
NODES = (
    a_node("gpu1", "gpu", "a100"),
    a_node("gpu2", "gpu", "a100", "nvlink"),
    a_node("big1", "big", "h100", gpus=8, cpus=64),
    a_node("big2", "big", "h100", gpus=8, cpus=64),
    a_node("big3", "big", "a100", gpus=4, cpus=96),
)
PARTITIONS = (a_partition("gpu", default=True), a_partition("big", nodes=3, gpus=8, cpus=96, time_s=3600))
CLUSTER = Cluster({partition.name: partition for partition in PARTITIONS}, NODES)


def recipe(*overrides: str) -> RunConfig:
    return load([DIGITS], overrides)


def judged(
    *overrides: str, cluster: Cluster = CLUSTER, where: FileSystem = SHARED, saving_s: float | None = None, host: str = LOGIN
) -> Findings:
    return judge(recipe(*overrides), cluster, where, saving_s, host)


def with_partition(**changes: Any) -> Cluster:
    """The cluster, its default partition changed."""
    return replace(CLUSTER, partitions=CLUSTER.partitions | {"gpu": replace(CLUSTER.partitions["gpu"], **changes)})


def test_a_job_that_fits_is_neither_refused_nor_warned_of() -> None:
    sizes = ["slurm.nodes=2", "slurm.gpus_per_node=4", "slurm.cpus_per_gpu=8", "slurm.memory=256G", "slurm.time=24:00:00"]
    assert judged(*sizes, "slurm.constraint=a100") == Findings()
    assert judged() == Findings()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("slurm.partition=gpus", r"no such partition, but big, gpu\. Did you mean gpu\?"),
        ("slurm.nodes=3", r"slurm.nodes=3: partition gpu has 2\. Set slurm.nodes=2, or slurm.partition to one with more: big"),
        ("slurm.gpus_per_node=8", r"at most 4 GPUs\. Set slurm.gpus_per_node=4, or slurm.partition to one with more: big\."),
        ("slurm.gpus_per_node=16", r"at most 4 GPUs\. Set slurm.gpus_per_node=4\."),
        ("slurm.gpus_per_node=4 slurm.cpus_per_gpu=9", r"for 4 GPUs per node is 36 CPUs, .* at most 32\. Set .*gpu=8"),
        ("slurm.tasks_per_node=33", r"for 33 ranks per node is 33 CPUs, .* Set slurm.tasks_per_node=32"),
        ("slurm.memory=1T", r"slurm.memory=1T: .* at most 262144M\. Set slurm.memory=262144M\."),
        ("slurm.time=1-00:01:00", r"the limit of partition gpu is 1-00:00:00\. Set slurm.time=1-00:00:00"),
        ("slurm.constraint=a10", r"no node of partition gpu has the feature a10, but a100, nvlink\. Did you mean a100\?"),
        ("slurm.constraint=a100|h100", r"has the feature h100"),
        ("slurm.nodes=2 slurm.constraint=a100&nvlink", r"of the 2 nodes of partition gpu, 1 have all of .*=a100&"),
        ("slurm.nodes=2 slurm.exclude=gpu[1-2]", r"0 have all of slurm.exclude=gpu\[1-2\]"),
        ("slurm.gpus_per_node=2 slurm.tasks_per_node=4", r"every rank needs its own GPU\. Set slurm.tasks_per_node=2"),
        ("dist.strategy=single slurm.tasks_per_node=2", r"dist.strategy=single runs on one rank, .* makes 2"),
        ("dist.device=cuda", r"dist.device=cuda, but no GPUs are requested\. Set slurm.gpus_per_node to at most 4"),
        ("slurm.time=2 slurm.signal_before_s=120", r"signal_before_s=120 is not less than slurm.time=2 \(120 s\)"),
        ("slurm.signal_before_s=70000", r"SLURM accepts at most 65535"),
        ("slurm.extra.job-name=x", r"slurm.extra.job-name=x: Phalanx sets this option itself; .* set name"),
        ("slurm.extra.gres=gpu:a100:2", r"set slurm.gpus_per_node"),
        ("slurm.extra.ntasks_per_node=2", r"set slurm.tasks_per_node"),
    ],
)
def test_what_slurm_cannot_run_is_refused_with_its_figures(override: str, says: str) -> None:
    problems = judged(*override.split()).problems
    assert len(problems) == 1
    assert re.search(says, problems[0]), problems[0]


def test_options_that_are_not_ours_pass() -> None:
    assert judged("slurm.extra.container-image=lab.sqsh", "slurm.extra.gres=nvme:1") == Findings()


def test_no_single_node_that_has_it_all_is_refused() -> None:
    asked = ["slurm.partition=big", "slurm.gpus_per_node=8", "slurm.cpus_per_gpu=12"]
    (problem,) = judged(*asked).problems
    assert "of the 3 nodes of partition big, 0 have all of slurm.gpus_per_node=8, slurm.cpus_per_gpu=12" in problem


def test_of_several_partitions_one_that_fits_is_enough() -> None:
    assert judged("slurm.partition=gpu,big", "slurm.gpus_per_node=8", "slurm.time=1:00:00") == Findings()


def test_everything_that_is_wrong_is_said_at_once() -> None:
    problems = judged("slurm.nodes=9", "slurm.gpus_per_node=9", "slurm.time=9-0", "slurm.extra.mem=1G").problems
    assert len(problems) == 4


def test_a_cluster_without_a_default_partition_asks_for_one() -> None:
    (problem,) = judged(cluster=with_partition(default=False)).problems
    assert problem == "SLURM has no default partition. Set slurm.partition to one of big, gpu."


def test_a_partition_that_takes_no_jobs_is_refused_and_one_that_is_down_warned_of() -> None:
    assert "State=DRAIN" in judged(cluster=with_partition(state="DRAIN")).problems[0]
    down = judged(cluster=with_partition(state="DOWN"))
    assert not down.problems and "DOWN" in down.warnings[0]


def test_nodes_that_are_down_make_a_job_wait() -> None:
    drained = replace(CLUSTER, nodes=(replace(NODES[0], usable=False), *NODES[1:]))
    found = judged("slurm.nodes=2", cluster=drained)
    assert not found.problems and "only 1 of the 2 nodes" in found.warnings[0]


def test_an_account_is_refused_where_slurm_enforces_it_and_warned_of_elsewhere() -> None:
    known = replace(CLUSTER, associations=(Association("vision", frozenset(["normal", "long"])),))
    strict = replace(known, enforced=frozenset(["associations", "limits", "qos"]))
    assert judged("slurm.account=vision", "slurm.qos=long", cluster=strict) == Findings()
    (problem,) = judged("slurm.account=visoin", cluster=strict).problems
    assert "are vision. Did you mean vision? Set slurm.account" in problem
    assert "are long, normal" in judged("slurm.qos=high", cluster=strict).problems[0]
    found = judged("slurm.account=other", cluster=known)
    assert not found.problems and "does not enforce them" in found.warnings[0]
    assert judged("slurm.account=other") == Findings(), "where SLURM tells nothing, nothing is said"


def test_a_partition_lets_in_only_its_accounts() -> None:
    closed = with_partition(accounts=frozenset(["vision"]))
    assert "admits only vision" in judged("slurm.account=speech", cluster=closed).problems[0]


def test_two_saves_must_fit_in_before_the_time_limit() -> None:
    assert judged("slurm.signal_before_s=120", saving_s=60) == Findings()
    (problem,) = judged("slurm.signal_before_s=120", saving_s=60.5).problems
    assert problem.endswith("Set slurm.signal_before_s=122.")


def test_preemption_without_time_to_save_is_warned_of() -> None:
    node = replace(NODES[0], partitions=frozenset(["gpu", "big"]))
    preempting = replace(CLUSTER, nodes=(node, *NODES[1:]), preempts_by_partition=True)
    gpu, big = CLUSTER.partitions["gpu"], replace(CLUSTER.partitions["big"], priority_tier=10)

    def with_grace(seconds: int) -> Findings:
        low = replace(gpu, preempt_mode="REQUEUE", grace_s=seconds)
        return judged(cluster=replace(preempting, partitions={"gpu": low, "big": big}), saving_s=20)

    assert with_grace(30) == Findings()
    assert "preempted by big with 5 s to save, and a save of this run took 20.0 s" in with_grace(5).warnings[0]


def test_unused_gpus_are_warned_of() -> None:
    found = judged("slurm.gpus_per_node=4", "slurm.tasks_per_node=1")
    assert not found.problems and "3 GPUs per node stay unused" in found.warnings[0]


# --- the run directory


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/runs", "ext4"),
        ("/tmp/runs", "tmpfs"),
        ("/home/me/runs", "nfs4"),
        ("/homes", "ext4"),
        ("/my data/runs", "lustre"),
        ("/home/me/cache/x", "tmpfs"),
    ],
)
def test_a_folder_lies_on_the_innermost_mount(folder: str, kind: str) -> None:
    assert place(Path(folder), MOUNTS).kind == kind


def test_a_run_directory_that_only_this_machine_sees_is_refused() -> None:
    for private in (
        FileSystem(Path("/tmp/runs"), "ext4"),
        FileSystem(Path("/run/me"), "tmpfs"),
        FileSystem(Path("/runs"), "overlay"),
    ):
        for nodes in ("slurm.nodes=1", "slurm.nodes=2"):
            (problem,) = judged(nodes, where=private).problems
            assert f"the run directory {private.path} is" in problem and "Set runs=FOLDER" in problem
    assert judged(where=FileSystem(Path("/tmp/runs"), "nfs4")) == Findings(), "a network file system, wherever it is mounted"


def test_on_a_node_itself_one_node_is_a_warning_and_several_are_refused() -> None:
    private = FileSystem(Path("/tmp/runs"), "ext4")
    found = judged(where=private, host="gpu1.cluster.lab")
    assert not found.problems and "unless SLURM starts it on this one" in found.warnings[0]
    assert judged("slurm.nodes=2", where=private, host="gpu1").problems


def test_where_every_node_is_this_machine_any_folder_will_do() -> None:
    here = replace(CLUSTER, nodes=tuple(replace(node, host="workstation") for node in NODES))
    assert (
        judged("slurm.nodes=2", cluster=here, where=FileSystem(Path("/tmp/runs"), "tmpfs"), host="workstation.lab")
        == Findings()
    )


def test_a_disk_of_this_machine_is_warned_of() -> None:
    found = judged(where=FileSystem(Path("/home/me/runs"), "xfs"))
    assert not found.problems and "on a disk of this machine (xfs)" in found.warnings[0]


# --- a real SLURM


def test_without_sbatch_the_user_is_sent_to_a_login_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError) as refused:
        check(recipe(), RunDirectory(tmp_path))
    assert str(refused.value) == (
        "there is no SLURM on this machine (sbatch is not found). "
        "Submit from a login node of the cluster, or add --local to run it here."
    )


@pytest.mark.slurm
def test_a_real_cluster_is_asked(cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.conf)
    run = RunDirectory(tmp_path / "runs/digits")
    assert check(recipe("slurm.nodes=2", "slurm.gpus_per_node=2", "slurm.memory=16000M"), run) == []
    with pytest.raises(UserError) as refused:
        check(recipe("slurm.nodes=3", "slurm.gpus_per_node=8", "slurm.memory=16001M", "slurm.constraint=a100"), run)
    keys = ("nodes=3", "gpus_per_node=8", "cpus_per_gpu=1", "memory=16001M", "constraint=a100")
    said = str(refused.value).splitlines()
    assert len(said) == len(keys)
    assert all(line.startswith(f"slurm.{key}") for line, key in zip(said, keys, strict=True)), said


@pytest.mark.slurm
def test_the_longest_save_of_a_run_counts(cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.conf)
    saves = [{"event": "save", "step": step, "seconds": seconds} for step, seconds in ((1, 5.0), (2, 90.0), (3, 4.0))]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps({"time": 0.0, **save}) + "\n" for save in saves))
    with pytest.raises(UserError, match=r"took 90\.0 s.*Set slurm.signal_before_s=181"):
        check(recipe(), RunDirectory(tmp_path))
    with pytest.raises(UserError, match="cannot be written"):
        check(recipe(), RunDirectory(tmp_path / "events.jsonl/digits"))


@pytest.mark.slurm
def test_accounts_are_asked_where_there_are_any(
    accounted_cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_CONF", accounted_cluster.conf)
    assert check(recipe("slurm.account=root", "slurm.qos=normal"), RunDirectory(tmp_path)) == []
    (warning,) = check(recipe("slurm.account=roof"), RunDirectory(tmp_path))
    assert "the accounts of user root are root. Did you mean root?" in warning
