"""Ranks that srun starts, on a real SLURM of two virtual nodes."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from phalanx.configs.errors import ExitCode
from phalanx.dist.checkpoint import directory, manifest
from tests.support.running import DIGITS, assert_bitwise, lines, phalanx, run, start
from tests.support.slurm_cluster import VirtualCluster

pytestmark = pytest.mark.slurm

SRUN = ["srun", "--kill-on-bad-exit=1"]
TRAIN = [sys.executable, "-m", "phalanx.launch.train", DIGITS]
OVERRIDES = ["train.log_every=1", "data.workers=1"]

# Prints who the process is, by the environment that it was started with.
WHO = """
import dataclasses, json, os
from phalanx.dist.processes.environment import find
print(json.dumps(dataclasses.asdict(find()) | {"process": os.getpid()}), flush=True)
"""
WHO_AM_I = [sys.executable, "-c", WHO]
ALONE = {"launcher": "alone", "rank": 0, "world": 1, "local_rank": 0, "local_world": 1, "node": 0}


def _people(output: str) -> list[dict[str, Any]]:
    """What WHO printed, in the order of ranks."""
    found: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    processes = {who.pop("process") for who in found}
    assert len(processes) == len(found), "every rank is a process of its own"
    return sorted(found, key=lambda who: int(who["rank"]))


def _slurm(*places: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Ranks of a step, given as (node, local_rank, local_world)."""
    return [
        {"launcher": "slurm", "rank": rank, "world": len(places), "local_rank": local, "local_world": of, "node": node}
        for rank, (node, local, of) in enumerate(places)
    ]


def test_a_task_of_srun_knows_its_rank(cluster: VirtualCluster, tmp_path: Path) -> None:
    step = run([*SRUN, "--nodes=2", "--ntasks=3", *WHO_AM_I], tmp_path, SLURM_CONF=cluster.conf)
    assert _people(step.output) == _slurm((0, 0, 2), (0, 1, 2), (1, 0, 1))


def test_the_shell_of_salloc_is_alone(cluster: VirtualCluster, tmp_path: Path) -> None:
    salloc = ["salloc", "--ntasks=2"]
    assert _people(run([*salloc, *WHO_AM_I], tmp_path, SLURM_CONF=cluster.conf).output) == [ALONE]
    # Where LaunchParameters=use_interactive_step, salloc starts its shell so:
    interactive = ["srun", "--interactive", "--preserve-env"]
    assert _people(run([*salloc, *interactive, *WHO_AM_I], tmp_path, SLURM_CONF=cluster.conf).output) == [ALONE]
    assert _people(run([*salloc, *SRUN, *WHO_AM_I], tmp_path, SLURM_CONF=cluster.conf).output) == _slurm((0, 0, 2), (0, 1, 2))


def test_a_batch_script_is_alone(cluster: VirtualCluster, tmp_path: Path) -> None:
    script = f"{shlex.join(WHO_AM_I)} > shell && {shlex.join([*SRUN, *WHO_AM_I])} > step"
    run(["sbatch", "--wait", "--ntasks=2", "--output=log", f"--wrap={script}"], tmp_path, SLURM_CONF=cluster.conf)
    assert _people((tmp_path / "shell").read_text()) == [ALONE]
    assert _people((tmp_path / "step").read_text()) == _slurm((0, 0, 2), (0, 1, 2))


@pytest.mark.parametrize("ranks", [1, 2])
def test_srun_trains_the_same_bits_as_phalanx_train(cluster: VirtualCluster, tmp_path: Path, ranks: int) -> None:
    recipe = [*OVERRIDES, "train.steps=3", "checkpoint.every_steps=3"]
    tasks = [f"--nodes={ranks}", f"--ntasks={ranks}", "--ntasks-per-node=1"]
    on_slurm = run([*SRUN, *tasks, *TRAIN, *recipe, "name=srun"], tmp_path, SLURM_CONF=cluster.conf)
    assert on_slurm.output.splitlines()[0] == "runs/srun"
    phalanx("train", DIGITS, *recipe, "name=here", "--nproc", str(ranks), cwd=tmp_path)

    start_event = lines(tmp_path / "runs/srun/events.jsonl")[0]
    assert (start_event["event"], start_event["world_size"]) == ("start", ranks)
    assert_bitwise(tmp_path / "runs/srun", tmp_path / "runs/here")


def test_sigterm_to_a_step_ends_it_with_a_checkpoint(cluster: VirtualCluster, tmp_path: Path) -> None:
    tasks = ["--job-name=preempted", "--nodes=2", "--ntasks=2"]
    step = start([*SRUN, *tasks, *TRAIN, *OVERRIDES, "name=srun"], tmp_path, SLURM_CONF=cluster.conf)
    step.until(lambda: bool(lines(tmp_path / "runs/srun/metrics.jsonl")))
    job = cluster.ask("squeue", "--noheader", "--name=preempted", "--format=%A")
    cluster.ask("scancel", "--signal=TERM", f"{job}.0")
    assert step.wait() == ExitCode.STOPPED_EARLY, step.errors  # srun returns the highest code of its tasks

    preempt = lines(tmp_path / "runs/srun/events.jsonl")[-1]
    assert (preempt["event"], preempt["reason"]) == ("preempt", "SIGTERM")
    checkpoints = tmp_path / "runs/srun/checkpoints"
    assert directory.steps(checkpoints) == [preempt["step"]]
    assert manifest.read(directory.step_directory(checkpoints, preempt["step"])).world_size == 2


def test_a_cluster_with_accounting_answers_sacct(accounted_cluster: VirtualCluster) -> None:
    accounted_cluster.ask("srun", "--job-name=accounted", "true")
    deadline = time.monotonic() + 30  # a fresh slurmdbd takes some seconds to hear of its cluster
    states: list[str] = []
    while "COMPLETED" not in states and time.monotonic() < deadline:
        time.sleep(0.5)
        states = accounted_cluster.ask("sacct", "--noheader", "--allocations", "--name=accounted", "--format=State").split()
    assert "COMPLETED" in states
