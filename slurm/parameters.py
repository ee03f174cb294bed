"""From a configuration to what submitit puts into the batch script: pure functions."""

import math
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phalanx.configs.schema import RunConfig
from phalanx.dist.processes.rank_status import VARIABLE as MAILBOX
from phalanx.dist.processes.stop import SIGNALS
from phalanx.dist.storage.run_directory import RunDirectory

ATTEMPT = "phalanx: attempt"  # begins the line of the batch script's log that opens an attempt


def batch_parameters(config: RunConfig, run: RunDirectory, environment: Mapping[str, str]) -> dict[str, Any]:
    """The parameters for `submitit.SlurmExecutor.update_parameters`.

    Args:
        environment: variables of the ranks, such as the path of the code's snapshot.
    """
    slurm = config.slurm
    cpus = cpus_per_task(config)
    further: dict[str, Any] = {"requeue": True}
    if slurm.memory is not None:
        further["mem"] = slurm.memory
    if slurm.reservation is not None:
        further["reservation"] = slurm.reservation
    further |= {name: value if value not in ("", "true") else True for name, value in slurm.extra.items()}
    # Otherwise a dead rank leaves the others waiting for their timeout. Since SLURM 22.05 srun ignores the job's cores.
    srun = ["--kill-on-bad-exit=1", "--open-mode=append", f"--output={_literal(run.logs)}/rank-%t.log"]
    srun += [f"--cpus-per-task={cpus}"] if cpus else []
    return {
        "job_name": config.name,
        "partition": slurm.partition,
        "nodes": slurm.nodes,
        "ntasks_per_node": slurm.ranks_per_node,
        "gpus_per_node": slurm.gpus_per_node or None,
        "cpus_per_task": cpus,
        "time": None if slurm.seconds is None else math.ceil(slurm.seconds / 60),
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "exclude": slurm.exclude,
        "signal_delay_s": slurm.signal_before_s,
        "additional_parameters": further,
        "setup": _setup(config, run, environment),
        "teardown": [f"{shlex.quote(sys.executable)} -m phalanx.slurm.ending {shlex.quote(str(run.path.absolute()))} $?"],
        "srun_args": srun,
        "stderr_to_stdout": True,
        "wckey": None,
    }


def cpus_per_task(config: RunConfig) -> int | None:
    """CPU cores per rank; None leaves it to SLURM."""
    slurm = config.slurm
    if slurm.cpus_per_gpu is None:
        return None
    return max(1, slurm.cpus_per_gpu * (slurm.gpus_per_node or slurm.ranks_per_node) // slurm.ranks_per_node)


def python() -> str:
    """The command that starts Python as a task.

    Until a rank handles signals they would kill it, or be lost. So they are blocked from the start: a mask, unlike a
    handler, survives `exec`, and the rank lifts it once its handlers are installed.
    """
    numbers = ",".join(str(int(number)) for number in SIGNALS)
    masked = f"import os,signal,sys;signal.pthread_sigmask(signal.SIG_BLOCK,({numbers},));os.execv(sys.argv[1],sys.argv[1:])"
    return shlex.join([sys.executable, "-I", "-S", "-c", masked, sys.executable])


def _setup(config: RunConfig, run: RunDirectory, environment: Mapping[str, str]) -> list[str]:
    folder = shlex.quote(str(run.slurm.absolute()))
    exported = {"PYTHONSAFEPATH": "1", **environment}
    return [
        # The ranks save and end; then the last line decides about a requeue. Until then the script must live.
        "trap : " + " ".join(number.name.removeprefix("SIG") for number in SIGNALS),
        f'head="{ATTEMPT} ${{SLURM_RESTART_COUNT:-0}} of job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, $(date --iso-8601=seconds)"',
        'echo "$head"',
        # Where a rank's last words begin, if it is killed without a report.
        f'for log in {shlex.quote(str(run.logs.absolute()))}/rank-*.log; do [ ! -e "$log" ] || echo "$head" >>"$log"; done',
        *config.slurm.setup,
        *(f"export {name}={shlex.quote(value)}" for name, value in exported.items()),
        f"export {MAILBOX}={folder}/ranks-$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}",
        f'mkdir -p "${MAILBOX}"',
    ]


def _literal(path: Path) -> str:
    """A path in a file name pattern of SLURM's, where `%` begins a placeholder."""
    return str(path.absolute()).replace("%", "%%")
