"""What `phalanx submit` queues is the run that other launchers would train; bad input queues nothing."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from phalanx.slurm.parameters import python
from tests.slurm.submitting import RECIPE, Job
from tests.support.running import DIGITS, ROOT, assert_bitwise, lines, phalanx, ranks, sample_ids
from tests.support.slurm_cluster import VirtualCluster

NODES = ["slurm.nodes=2", "slurm.tasks_per_node=2"]
STEPS = ["train.steps=6", "checkpoint.every_steps=4"]


@pytest.mark.slurm
def test_a_job_on_two_nodes_trains_the_bits_of_torchrun_and_of_one_rank(cluster: VirtualCluster, tmp_path: Path) -> None:
    job = Job(cluster, tmp_path, "queued", *NODES, *STEPS, "slurm.time=1:00:00", "slurm.memory=8G", "slurm.cpus_per_gpu=1")
    (tmp_path / "my_task.py").write_text("raise ImportError('the checkout was edited after submission')\n")
    assert job.until_over() == "COMPLETED", job.log
    (tmp_path / "my_task.py").write_text((job.path / "code/own/my_task.py").read_text())
    ranks(4, *RECIPE, *STEPS, "name=torchrun", cwd=tmp_path)
    phalanx("train", *RECIPE, *STEPS, "name=alone", cwd=tmp_path)
    for other in ("torchrun", "alone"):
        assert_bitwise(job.path, tmp_path / "runs" / other)
        assert sample_ids(job.path) == sample_ids(tmp_path / "runs" / other)
    assert [e["event"] for e in job.events if e["event"] not in ("save", "evaluate")] == ["start", "done"]
    assert (job.events[0]["world_size"], len(list((job.path / "logs").glob("rank-*.log")))) == (4, 4)
    assert (job.path / "slurm").stat().st_mode & 0o777 == 0o700
    status = job.ask("status")
    assert "COMPLETED" in status and "step 6 of 6" in status and "checkpoint of step 6" in status
    refused = job.ask("cancel", expect=2)
    assert refused == ""


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["slurm.partition=lwo"], "slurm.partition=lwo"),
        (["slurm.time=1h"], "slurm.time=1h is not allowed"),
        (["slurm.gpus_per_node=9", "train.micro_batch=1"], "slurm.gpus_per_node=9"),
        (["slurm.nodes=3"], "slurm.nodes=3"),
        (["runs=/proc/nowhere"], "/proc/nowhere"),
        (["slurm.setup=[export MY_TOKEN=abc]"], "slurm.setup[0] holds MY_TOKEN"),
        (["slurm.tasks_per_node=5"], "a step has 4 micro-batches"),
    ],
)
def test_bad_input_is_a_sentence_and_queues_nothing(
    cluster: VirtualCluster, tmp_path: Path, overrides: list[str], sentence: str
) -> None:
    command = ["submit", DIGITS, "name=bad", "train.steps=2", *overrides]
    refused = phalanx(*command, cwd=tmp_path, expect=2, SLURM_CONF=cluster.conf)
    assert sentence in refused.errors and "Traceback" not in refused.errors and "abc" not in refused.errors
    assert not refused.output and not (tmp_path / "runs/bad").exists()
    assert not cluster.ask("squeue", "--noheader", "--name=bad")


def test_without_slurm_the_remedy_is_said_and_the_script_is_printed_all_the_same(tmp_path: Path) -> None:
    nowhere = {"PATH": str(tmp_path)}
    refused = phalanx("submit", DIGITS, "name=none", "train.steps=2", cwd=tmp_path, expect=2, **nowhere)
    assert "sbatch" in refused.errors and "--local" in refused.errors
    shown = phalanx("submit", DIGITS, "name=none", "slurm.time=1:30:00", "slurm.nodes=2", "--dry-run", cwd=tmp_path, **nowhere)
    assert "#SBATCH --time=90" in shown.output and "--kill-on-bad-exit=1" in shown.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.quick
def test_every_cluster_file_gives_a_batch_script(tmp_path: Path) -> None:
    for path in sorted((ROOT / "configs/cluster").glob("slurm_*.yaml")):
        wide = ["train.global_batch=64", "train.micro_batch=2", "name=try", "--dry-run"]
        shown = phalanx("submit", DIGITS, path, *wide, cwd=tmp_path).output
        assert subprocess.run(["bash", "-n"], input=shown, text=True).returncode == 0 and "#SBATCH --gpus-per-node" in shown


def test_a_run_resumes_in_the_background_of_this_machine(tmp_path: Path) -> None:
    recipe = [DIGITS, "model.stem=small", "data.image_size=8", "data.workers=0", "train.global_batch=16", "train.micro_batch=8"]
    told = phalanx(
        "submit", *recipe, "train.steps=100000", "name=here", "slurm.tasks_per_node=2", "--local", cwd=tmp_path
    ).output
    assert told.splitlines()[0] == "runs/here"
    again = phalanx("submit", *recipe, "train.steps=100000", "name=here", "--local", cwd=tmp_path, expect=2)
    assert "trains this run already" in again.errors
    run = tmp_path / "runs/here"
    _until(lambda: len(lines(run / "metrics.jsonl")) > 0)
    assert "RUNNING" in phalanx("status", "runs/here", cwd=tmp_path).output
    phalanx("cancel", "runs/here", cwd=tmp_path)
    _until(lambda: "STOPPED" in phalanx("status", "runs/here", cwd=tmp_path).output)
    assert [e["event"] for e in lines(run / "events.jsonl")] == ["start", "save", "preempt"]


def test_signals_wait_from_the_first_instant_of_a_task() -> None:
    command = f"{python()} -c 'import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print(signal.sigpending())'"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=dict(os.environ))
    assert (shown.returncode, "SIGUSR2" in shown.stdout) == (0, True), sys.executable


def _until(condition: Callable[[], bool], timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
