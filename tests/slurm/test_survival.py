"""Signals, preemption, time limits, dead nodes and resizes: there is one run, and it is the unbroken one."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from phalanx.train.tracking.wandb_pieces import pieces, rows
from tests.slurm.submitting import RECIPE, Job
from tests.support.running import answer, assert_bitwise, clean_environment, lines, phalanx, sample_ids
from tests.support.slurm_cluster import VirtualCluster, insist

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.mark.timeout(600)
def test_a_run_through_time_limit_preemption_a_dead_node_and_a_resize_is_the_unbroken_run(tmp_path: Path) -> None:
    insist()
    length = ["train.steps=60", "checkpoint.every_steps=5", "train.eval_every=30", "track.wandb=offline"]
    with VirtualCluster(accounting=True) as cluster:
        job = Job(cluster, tmp_path, "survivor", *length, "slurm.nodes=2", "slurm.time=20:00")
        job.tell("slowly", "0.8")
        job.until(lambda: job.step >= 2, "training")

        # The limit is now two minutes after the start, so the signal that comes 120 s before it is due.
        cluster.ask("scontrol", "update", f"JobId={job.id}", "TimeLimit=2")
        job.until(lambda: job.count("requeue") == 1, "requeued for its time limit")
        job.until(lambda: job.state == "PENDING", "pending")
        cluster.ask("scontrol", "update", f"JobId={job.id}", "TimeLimit=60")
        job.until(lambda: job.count("resume") == 1, "resuming")

        first = job.step
        job.until(lambda: job.step > first, "training again")
        cluster.ask("sbatch", "--partition=high", "--nodes=2", "--exclusive", f"--output={os.devnull}", "--wrap=sleep 1")
        job.until(lambda: job.count("requeue") == 2, "requeued for another job")
        job.until(lambda: job.count("resume") == 2, "resuming")

        second = job.step
        job.until(lambda: job.step > second, "training again")
        _kill_node(cluster, "node1")
        job.until(lambda: "Restarts=3" in cluster.ask("scontrol", "show", "job", "--oneliner", job.id), "requeued")
        _start_node(cluster, "node1")
        job.until(lambda: job.count("resume") == 3, "resuming")

        job.ask("cancel")
        assert job.until_over() == "CANCELLED"
        assert job.step < 60
        job.forget("slowly")
        job.resume("slurm.nodes=1")
        assert job.until_over() == "COMPLETED", job.log
        status = json.loads(job.ask("status", "--json"))
        assert (status["state"], status["step"], status["checkpoint"]) == ("COMPLETED", 60, 60)

    phalanx("train", *RECIPE, *length, "track.wandb=off", "name=unbroken", cwd=tmp_path)
    unbroken = tmp_path / "runs/unbroken"
    assert_bitwise(job.path, unbroken)
    assert sample_ids(job.path) == sample_ids(unbroken)
    assert [line["step"] for line in lines(job.path / "metrics.jsonl")] == list(range(1, 61))
    quiet = ("save", "evaluate", "cut_back", "tracking_lost", "failure")
    told = [e["event"] for e in job.events if e["event"] not in quiet]
    # The ranks that outlive the dead node may tell of the save that they were in; and SLURM, which noticed, may let the
    # batch script have its last word, or not.
    while told[7] != "resume":
        assert told.pop(7) in ("save_failed", "ended", "requeue")
    story = ["start", "preempt", "requeue", "resume", "preempt", "requeue", "resume"]
    assert told == [*story, "resume", "preempt", "ended", "resume", "resize", "done"]
    assert [e["reason"] for e in job.events if e["event"] == "requeue"][1] == "preempted"
    there = pieces(job.path)
    assert len({piece.stem for piece in there}) == 1
    assert [int(row["_step"]) for piece in there for row in rows(piece)] == list(range(1, 61))


def _kill_node(cluster: VirtualCluster, node: str) -> None:
    """The node's daemon and all that runs on it end without a word, as when the power goes."""
    there = cluster.processes()
    tasks = [process for process in there if _variable(process, "SLURMD_NODENAME") == node]
    keepers = {parent for task in tasks if (parent := answer(task.parent)) and answer(parent.name) == "slurmstepd"}
    daemons = [process for process in there if answer(process.name) == "slurmd" and node in (answer(process.cmdline) or [])]
    assert tasks and keepers and daemons
    for process in [*daemons, *keepers, *tasks]:
        answer(process.kill)  # it may have ended with the one before


def _variable(process: psutil.Process, name: str) -> str | None:
    return (answer(process.environ) or {}).get(name)


def _start_node(cluster: VirtualCluster, node: str) -> None:
    daemon = shutil.which("slurmd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert daemon is not None
    subprocess.run([daemon, "-N", node], check=True, timeout=60, env=clean_environment(SLURM_CONF=cluster.conf))


@pytest.mark.timeout(400)
def test_whenever_a_signal_comes_the_run_saves_and_resumes_and_cancelled_it_stays_so(
    cluster: VirtualCluster, tmp_path: Path
) -> None:
    where = ["slurm.tasks_per_node=2", "slurm.time=30", "slurm.max_requeues=9"]
    job = Job(cluster, tmp_path, "signalled", *where, "train.steps=100000", "checkpoint.every_steps=1", "checkpoint.keep=2")

    # Before training starts: as soon as the tasks are there.
    job.until(lambda: (job.path / "logs/rank-1.log").exists(), "started")
    cluster.ask("scancel", "--signal=USR2", job.id)
    job.until(lambda: job.count("requeue") == 1, "requeued before it trained")
    # It starts anew where the signal came before there was anything to resume.
    begun = job.count("start") + job.count("resume")
    job.until(lambda: job.count("start") + job.count("resume") == begun + 1, "resuming")

    # Rank 1 waits in a collective for rank 0, which pauses; twice, as the same signal may come again.
    requeued, resumed = job.count("requeue"), job.count("resume")
    job.tell("pause-0")
    cluster.ask("scancel", "--signal=USR2", job.id)
    cluster.ask("scancel", "--signal=USR2", job.id)
    job.forget("pause-0")
    job.until(lambda: job.count("requeue") > requeued, "requeued out of a collective")
    job.until(lambda: job.count("resume") == resumed + 1, "resuming")

    # While a save is under way: there is one at every step.
    job.until(lambda: any(p.name.startswith(".saving") for p in (job.path / "checkpoints").iterdir()), "saving")
    requeued, resumed = job.count("requeue"), job.count("resume")
    cluster.ask("scancel", "--signal=USR2", job.id)
    job.until(lambda: job.count("requeue") == requeued + 1, "requeued out of a save")
    job.until(lambda: job.count("resume") == resumed + 1, "resuming")

    requeued, resumed, preempted = job.count("requeue"), job.count("resume"), job.count("preempt")
    cluster.ask("scontrol", "requeue", job.id)
    job.until(lambda: job.count("resume") == resumed + 1, "resuming after a requeue by hand")
    assert job.count("requeue") == requeued

    step = job.step
    job.until(lambda: job.step > step, "training")
    cluster.ask("scancel", job.id)
    assert job.until_over() == "CANCELLED"
    assert [e["event"] for e in job.events][-3:] == ["save", "preempt", "ended"]
    saved = [e["step"] for e in job.events if e["event"] == "save"]
    assert job.step == saved[-1] and job.count("preempt") == preempted + 2


def test_a_crash_that_repeats_without_progress_is_not_requeued_for_ever(cluster: VirtualCluster, tmp_path: Path) -> None:
    (tmp_path / "told").mkdir()
    (tmp_path / "told/harm-1").write_text("kill")
    job = Job(cluster, tmp_path, "crashing", "slurm.tasks_per_node=2", "slurm.max_requeues=1", "train.steps=100000")
    assert job.until_over() == "FAILED", job.log
    assert [e["event"] for e in job.events if e["event"] != "failure"].count("requeue") == 1
    assert "1 requeue in a row made no progress (slurm.max_requeues=1)" in job.events[-1]["reason"]
    assert "task 1: Killed" in job.ask("logs")
