"""Checks before a job is queued, against SLURM's configuration.

`train.setup.checks.check_world` checks the number of ranks separately.
"""

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.configs.sections.slurm import SlurmConfig
from phalanx.configs.strategies import STRATEGIES
from phalanx.dist.storage.json_lines import number
from phalanx.dist.storage.run_directory import RunDirectory, is_writable, read_events
from phalanx.slurm import capacity
from phalanx.slurm.ask import SlurmError
from phalanx.slurm.cluster import Cluster, Node, Partition, read_cluster, this_user
from phalanx.slurm.file_system import FileSystem, place
from phalanx.slurm.findings import Findings, as_time, listed, near

ELSEWHERE = "Submit from a login node of the cluster, or add --local to run it here."
_LONGEST_SIGNAL_S = 65535  # sbatch's maximum
_SAVES = 2  # saves that must fit in before the time limit: one may be in progress when the signal comes

_OWN_OPTIONS = {
    "job-name": "it is the run's name; set name",
    "output": "the log lies in the run directory; set runs",
    "error": "the log lies in the run directory; set runs",
    "open-mode": "logs are appended to, so that a requeue keeps them",
    "signal": "set slurm.signal_before_s",
    "requeue": "set slurm.max_requeues",
    "no-requeue": "set slurm.max_requeues=0",
    "ntasks": "set slurm.nodes and slurm.tasks_per_node",
    "ntasks-per-node": "set slurm.tasks_per_node",
    "ntasks-per-gpu": "set slurm.tasks_per_node",
    "nodes": "set slurm.nodes",
    "partition": "set slurm.partition",
    "gpus": "set slurm.gpus_per_node",
    "gpus-per-node": "set slurm.gpus_per_node",
    "gpus-per-task": "set slurm.gpus_per_node and slurm.tasks_per_node",
    "cpus-per-gpu": "set slurm.cpus_per_gpu",
    "cpus-per-task": "set slurm.cpus_per_gpu",
    "mem": "set slurm.memory",
    "mem-per-cpu": "set slurm.memory",
    "mem-per-gpu": "set slurm.memory",
    "time": "set slurm.time",
    "account": "set slurm.account",
    "qos": "set slurm.qos",
    "constraint": "set slurm.constraint",
    "exclude": "set slurm.exclude",
    "reservation": "set slurm.reservation",
    "array": "a run is one job",
    "wrap": "the batch script is Phalanx's; set slurm.setup",
    "parsable": "Phalanx reads what sbatch prints",
    "test-only": "use --dry-run",
}
_SHORT = {"J": "job-name", "o": "output", "e": "error", "n": "ntasks", "N": "nodes", "p": "partition", "G": "gpus"}
_SHORT |= {"c": "cpus-per-task", "t": "time", "A": "account", "q": "qos", "C": "constraint", "x": "exclude", "a": "array"}


def check(config: RunConfig, run: RunDirectory, last_save_s: float | None = None) -> list[str]:
    """Checks that SLURM can and may run the job as requested, and that the run can save and be found.

    Args:
        last_save_s: seconds that saving a checkpoint takes; by default, the longest in the run's events.

    Returns:
        Warnings.

    Raises:
        UserError: with all problems, one per line.
    """
    if shutil.which("sbatch") is None:
        raise UserError(f"there is no SLURM on this machine (sbatch is not found). {ELSEWHERE}")
    try:
        cluster = read_cluster()
    except SlurmError as error:
        raise UserError(f"SLURM does not answer: {error}. {ELSEWHERE}") from None
    saving_s = longest_save_s(run) if last_save_s is None else last_save_s
    found = judge(config, cluster, place(run.path), saving_s)
    if not is_a_folder_to_write(run.path):
        found.problems.append(f"{run.path}: cannot be written. Set runs=FOLDER to another folder.")
    if found.problems:
        raise UserError("\n".join(found.problems))
    return found.warnings


def longest_save_s(run: RunDirectory) -> float | None:
    """Seconds of the longest save of a run; None if unknown."""
    saves = (number(event.get("seconds")) for event in read_events(run) if event["event"] == "save")
    return max((seconds for seconds in saves if seconds is not None), default=None)


def is_a_folder_to_write(folder: Path) -> bool:
    """Whether files can be made in a folder that may not exist yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return there.is_dir() and is_writable(there)


def judge(config: RunConfig, cluster: Cluster, where: FileSystem, saving_s: float | None, host: str | None = None) -> Findings:
    """All checks except for writing to disk: a pure function.

    Args:
        where: the run directory's file system.
        saving_s: seconds that a save takes, if known.
        host: this machine's name; by default queried.
    """
    slurm, found = config.slurm, Findings()
    _check_ranks(config, found)
    _check_options(slurm, found)
    _check_accounts(slurm, cluster, found)
    # Of several partitions, SLURM takes one where the job can run: check the best fit.
    by_partition: list[Findings] = []
    for partition in _partitions(slurm, cluster, found):
        there = Findings()
        own = [node for node in cluster.nodes if partition.name in node.partitions]
        capacity.check_partition(slurm, partition, cluster, there)
        capacity.check_nodes(slurm, partition, own, there)
        _check_time(slurm, partition, saving_s, there)
        _check_preemption(partition, cluster, saving_s, there)
        _check_devices(config, partition, there)
        _check_place(slurm, partition, own, where, host or socket.gethostname(), there)
        by_partition.append(there)
    if by_partition:
        best = min(by_partition, key=lambda there: len(there.problems))
        found.problems += best.problems
        found.warnings += best.warnings
    return found


# --- the recipe


def _check_ranks(config: RunConfig, found: Findings) -> None:
    slurm = config.slurm
    strategy = config.dist.strategy
    if STRATEGIES[strategy].one_rank and slurm.ranks > 1:
        found.problems.append(
            f"dist.strategy={strategy} runs on one rank, but slurm.nodes={slurm.nodes} with {slurm.ranks_per_node} ranks per "
            f"node makes {slurm.ranks}. Set dist.strategy=ddp, or slurm.nodes=1 slurm.tasks_per_node=1."
        )
    tasks, gpus = slurm.tasks_per_node, slurm.gpus_per_node
    if not tasks or not gpus:
        return
    if tasks > gpus:
        found.problems.append(
            f"slurm.tasks_per_node={tasks} with slurm.gpus_per_node={gpus}: every rank needs its own GPU. "
            f"Set slurm.tasks_per_node={gpus}, or leave it out."
        )
    elif tasks < gpus:
        found.warnings.append(
            f"slurm.tasks_per_node={tasks} with slurm.gpus_per_node={gpus}: {gpus - tasks} GPUs per node stay unused. "
            "Leave slurm.tasks_per_node out to use them all."
        )


def _check_options(slurm: SlurmConfig, found: Findings) -> None:
    for given, value in slurm.extra.items():
        name = given.lstrip("-").replace("_", "-")
        name = _SHORT.get(name, name)
        remedy = _OWN_OPTIONS.get(name)
        if name in ("gres", "tres-per-node", "tres-per-task") and "gpu" in value:
            remedy = "set slurm.gpus_per_node, and the kind of GPU by slurm.constraint"
        if remedy is not None:
            found.problems.append(
                f"slurm.extra.{given}={value}: Phalanx sets this option itself; {remedy}, and remove this one."
            )


def _check_accounts(slurm: SlurmConfig, cluster: Cluster, found: Findings) -> None:
    """Checks accounts and QOS, if SLURM reports them."""
    accounts = {own.account for own in cluster.associations}
    qos = {name for own in cluster.associations if slurm.account in (None, own.account) for name in own.qos}
    # SLURM can enforce limits and QOS only on associations, so these imply that one.
    asked = [
        ("account", "accounts", slurm.account, accounts, {"associations", "limits", "qos", "safe", "all"}),
        ("qos", "QOS", slurm.qos, qos, {"qos", "all"}),
    ]
    for key, what, value, allowed, rules in asked:
        if value is None or not allowed or value in allowed:
            continue
        sentence = f"slurm.{key}={value}: the {what} of user {this_user()} are {listed(allowed)}.{near(value, allowed)}"
        if cluster.enforced & rules:
            found.problems.append(f"{sentence} Set slurm.{key} to one of them.")
        else:
            found.warnings.append(f"{sentence} SLURM accepts others too, as it does not enforce them.")


# --- the cluster


def _partitions(slurm: SlurmConfig, cluster: Cluster, found: Findings) -> list[Partition]:
    """The requested partitions that exist."""
    known = cluster.partitions
    if slurm.partition is None:
        default = [partition for partition in known.values() if partition.default]
        if not default:
            found.problems.append(f"SLURM has no default partition. Set slurm.partition to one of {listed(known)}.")
        return default
    names = [name.strip() for name in slurm.partition.split(",")]
    for name in names:
        if name not in known:
            found.problems.append(
                f"slurm.partition={name}: SLURM has no such partition, but {listed(known)}.{near(name, known)} "
                "Set slurm.partition to one of them."
            )
    return [known[name] for name in names if name in known]


# --- time


def _check_time(slurm: SlurmConfig, partition: Partition, saving_s: float | None, found: Findings) -> None:
    longest = partition.time_s
    if slurm.seconds is not None and longest is not None and slurm.seconds > longest:
        sentence = f"slurm.time={slurm.time}: the limit of partition {partition.name} is {as_time(longest)}"
        if slurm.qos is None:
            found.problems.append(f"{sentence}. Set slurm.time={as_time(longest)}: the run saves and requeues itself then.")
        else:
            found.warnings.append(f"{sentence}, unless slurm.qos={slurm.qos} lifts it: else the job waits for ever.")
    limit = slurm.seconds or partition.default_time_s or longest
    before = slurm.signal_before_s
    if limit is not None and before >= limit:
        where = f"slurm.time={slurm.time}" if slurm.time else f"the limit of partition {partition.name}, {as_time(limit)}"
        found.problems.append(
            f"slurm.signal_before_s={before} is not less than {where} ({limit} s): the run would be stopped as it starts. "
            f"Set slurm.signal_before_s={max(1, limit // 4)}, or a longer slurm.time."
        )
    if before > _LONGEST_SIGNAL_S:
        found.problems.append(
            f"slurm.signal_before_s={before}: SLURM accepts at most {_LONGEST_SIGNAL_S}. Set it to that or less."
        )
    if saving_s is not None and before < _SAVES * saving_s:
        found.problems.append(
            f"slurm.signal_before_s={before}: a save of this run took {saving_s:.1f} s, and {_SAVES} must fit in before the "
            f"time limit, as one may be in progress. Set slurm.signal_before_s={int(_SAVES * saving_s) + 1}."
        )


def _check_preemption(partition: Partition, cluster: Cluster, saving_s: float | None, found: Findings) -> None:
    """Warns if a preempted job has no time to save."""
    if not cluster.preempts_by_partition or partition.preempt_mode in ("OFF", "SUSPEND", "GANG,SUSPEND"):
        return
    own = {node.name for node in cluster.nodes if partition.name in node.partitions}
    higher = {p.name for p in cluster.partitions.values() if p.priority_tier > partition.priority_tier}
    by = {name for node in cluster.nodes if node.name in own for name in node.partitions & higher}
    if by and partition.grace_s < (saving_s or 1):
        took = f", and a save of this run took {saving_s:.1f} s" if saving_s else ""
        found.warnings.append(
            f"jobs of partition {partition.name} may be preempted by {listed(by)} with {partition.grace_s} s to save{took}: "
            "the run then resumes from its last checkpoint. Set checkpoint.every_steps to lose less."
        )


# --- devices and disks


def _check_devices(config: RunConfig, partition: Partition, found: Findings) -> None:
    asked, device = config.slurm.gpus_per_node or 0, config.dist.device
    if device == "cuda" and not asked and partition.gpus:
        found.problems.append(
            f"dist.device=cuda, but no GPUs are requested. Set slurm.gpus_per_node to at most {partition.gpus}, "
            f"which nodes of partition {partition.name} have, or dist.device=auto."
        )
    if device == "cpu" and asked:
        found.warnings.append(f"dist.device=cpu: the GPUs of slurm.gpus_per_node={asked} stay unused. Request none.")


def _is_here(node: Node, host: str) -> bool:
    """Whether a node is this machine."""
    loopback = node.address.startswith("127.") or node.address in ("localhost", "::1")
    return loopback or node.host.split(".")[0].lower() in (host.split(".")[0].lower(), "localhost")


def _check_place(
    slurm: SlurmConfig, partition: Partition, own: Sequence[Node], where: FileSystem, host: str, found: Findings
) -> None:
    """Checks that the nodes can see the run directory: its code, its checkpoints, and the ranks' rendezvous."""
    here = [node for node in own if _is_here(node, host)]
    if len(here) == len(own):
        return  # every node is this machine
    remedy = "Set runs=FOLDER to a folder that all nodes share, such as one of your home."
    if where.private is None:
        if where.doubtful:
            found.warnings.append(
                f"the run directory {where.path} is on a disk of this machine ({where.kind}). If the nodes of partition "
                f"{partition.name} do not mount it, the job fails. {remedy}"
            )
    elif slurm.nodes > 1 or not here:
        found.problems.append(
            f"the run directory {where.path} {where.private}, but the job runs on nodes of partition {partition.name}. {remedy}"
        )
    else:
        found.warnings.append(
            f"the run directory {where.path} {where.private}: the job fails unless SLURM starts it on this one. {remedy}"
        )
