"""What SLURM says, asked of a real one."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from phalanx.launch.doctor_checks.services import slurm
from phalanx.launch.main import main
from phalanx.slurm import ask
from phalanx.slurm.ask import Job, SlurmError
from phalanx.slurm.cluster import accounting, associations, partitions, read_cluster, this_user
from tests.support.slurm_cluster import VirtualCluster


@pytest.fixture
def here(cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch) -> VirtualCluster:
    monkeypatch.setenv("SLURM_CONF", cluster.conf)
    return cluster


@pytest.fixture
def accounted(accounted_cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch) -> VirtualCluster:
    monkeypatch.setenv("SLURM_CONF", accounted_cluster.conf)
    return accounted_cluster


def submit(cluster: VirtualCluster, script: str, *options: str) -> str:
    return cluster.ask("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")


def until(id: str, condition: Callable[[Job], bool], question: Callable[[str], Job | None] = ask.job) -> Job:
    """Asks until the answer is so."""
    deadline = time.monotonic() + 60
    while (job := question(id)) is None or not condition(job):
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
    return job


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("node3", "node3"),
        ("node[08-10,12],login1", "node08 node09 node10 node12 login1"),
        ("r[0-1]n[1-2]x", "r0n1x r0n2x r1n1x r1n2x"),
    ],
)
def test_lists_of_hosts_are_read_as_slurm_writes_them(nodes: str, names: str) -> None:
    assert ask.hosts(nodes) == tuple(names.split())


def test_values_with_spaces_and_equals_signs_stay_whole() -> None:
    line = "NodeName=n0 OS=Linux 6.1 #1 SMP Reason=Not responding [root@now] CfgTRES=cpu=4,mem=16000M CPUs/Task=1 Last="
    assert ask.fields_of(line) == {
        "NodeName": "n0",
        "OS": "Linux 6.1 #1 SMP",
        "Reason": "Not responding [root@now]",
        "CfgTRES": "cpu=4,mem=16000M",
        "CPUs/Task": "1",
        "Last": "",
    }


def test_without_sbatch_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert ask.available() == "sbatch is not found"
    with pytest.raises(SlurmError, match=r"scancel 1: the command is not found"):
        ask.cancel("1")


@pytest.mark.slurm
def test_partitions_are_what_slurm_conf_says(here: VirtualCluster) -> None:
    assert ask.available() is None
    found = partitions()
    low, high = found["low"], found["high"]
    assert (low.default, low.up, low.nodes, low.gpus, low.cpus, low.memory) == (True, True, 2, 2, 4, 16000 * 2**20)
    assert (low.time_s, low.requeues, low.grace_s) == (None, True, 30)
    assert (high.default, high.requeues, high.priority_tier > low.priority_tier) == (False, False, True)


@pytest.mark.slurm
def test_without_accounting_nothing_is_an_error(here: VirtualCluster) -> None:
    assert not accounting()
    assert associations(this_user()) == ()
    assert ask.job("999999") is None
    assert ask.job("not a job") is None


@pytest.mark.slurm
def test_a_job_that_waits_says_why_and_one_that_is_cancelled_says_so(here: VirtualCluster) -> None:
    id = submit(here, "true", "--hold", "--time=1:30:00")
    waiting = ask.job(id)
    assert waiting is not None
    assert (waiting.state, waiting.reason, waiting.nodes, waiting.limit_s) == ("PENDING", "JobHeldUser", (), 5400)
    assert (waiting.over, waiting.exit_code) == (False, None)
    ask.cancel(id)
    assert until(id, lambda job: job.over).state == "CANCELLED"


@pytest.mark.slurm
def test_a_job_that_fails_has_its_exit_code(here: VirtualCluster) -> None:
    before = time.time()
    failed = until(submit(here, "exit 3", "--nodes=2"), lambda job: job.over)
    assert (failed.state, failed.exit_code, failed.exit_signal, failed.restarts) == ("FAILED", 3, 0, 0)
    assert failed.nodes == ("node0", "node1")
    assert failed.start is not None and failed.end is not None
    assert before - 2 < failed.start <= failed.end < time.time() + 2


@pytest.mark.slurm
def test_a_preempted_job_is_known_while_it_runs(here: VirtualCluster, tmp_path: Path) -> None:
    victim = submit(here, f"trap : TERM; until [ -e {tmp_path}/end ]; do sleep 0.1; done", "--exclusive", "--nodes=2")
    assert not until(victim, lambda job: job.state == "RUNNING").preempted
    other = submit(here, "true", "--partition=high", "--exclusive", "--nodes=2")
    assert until(victim, lambda job: job.preempted).state == "RUNNING"
    ask.cancel(other)
    (tmp_path / "end").touch()
    assert until(victim, lambda job: job.over).state == "COMPLETED"


@pytest.mark.slurm
def test_a_requeued_job_keeps_its_number_and_counts(here: VirtualCluster) -> None:
    id = submit(here, "exec sleep 60")  # a child of the script that is just starting could be overlooked
    until(id, lambda job: job.state == "RUNNING")
    ask.requeue(id)
    assert until(id, lambda job: job.state == "PENDING").restarts == 1
    ask.cancel(id)
    until(id, lambda job: job.over)


@pytest.mark.slurm
def test_what_slurm_refuses_is_reported_in_its_words(here: VirtualCluster) -> None:
    with pytest.raises(SlurmError, match=r"^scontrol requeue 999999: .*Invalid job id") as refused:
        ask.requeue("999999")
    assert shlex.split(refused.value.command) == ["scontrol", "requeue", "999999"]


@pytest.mark.slurm
def test_accounts_remember_what_the_controller_forgets(accounted: VirtualCluster) -> None:
    id = submit(accounted, "exit 4", "--nodelist=node0")
    live = until(id, lambda job: job.over)
    past = until(id, lambda job: job.over, ask.past_job)
    for told in (live, past):
        assert (told.state, told.exit_code, told.nodes, told.restarts) == ("FAILED", 4, ("node0",), 0)
    # A slurmdbd that has just started knows no more of its first job than how it ended: neither its name nor its limit.
    assert (past.start, past.end) == (live.start, live.end)
    assert ask.job("999999") is None


@pytest.mark.slurm
def test_accounts_and_qos_are_those_of_the_user(accounted: VirtualCluster) -> None:
    assert accounting()
    own = read_cluster().associations
    assert {association.account for association in own} == {"root"}
    assert {name for association in own for name in association.qos} == {"normal"}
    assert associations("nobody-of-that-name") == ()


@pytest.mark.slurm
def test_the_doctor_looks_at_every_node_of_a_partition(
    here: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = {one.check: one for one in slurm()}
    assert "low (2 nodes)" in found["SLURM"].said and found["accounting"].level == "yellow"
    assert "preemption" not in found and "requeueing" not in found
    assert main(["doctor", "--slurm", "low"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum("shared disk" in line and "which is local to each machine" in line for line in lines) == 2  # under /tmp
    assert main(["doctor", "--slurm", "nowhere"]) == 2 and "There are low, high" in capsys.readouterr().err
