"""SLURM's partitions, nodes and accounts, read by its own commands."""

import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass

from phalanx.slurm.ask import SlurmError, answer, fields_of, integer_of, seconds

_UNUSABLE = {"DOWN", "DRAIN", "DRAINED", "DRAINING", "ERROR", "FAIL", "FAILING", "INVAL", "NOT_RESPONDING", "UNKNOWN"}


@dataclass(frozen=True)
class Node:
    """A node as it is configured.

    Attributes:
        host: its machine's name.
        address: at which the controller reaches it.
        usable: whether it is neither down nor drained.
        memory: bytes available to jobs.
    """

    name: str
    host: str = ""
    address: str = ""
    partitions: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    usable: bool = True
    gpus: int = 0
    cpus: int = 1
    memory: int = 0


@dataclass(frozen=True)
class Partition:
    """A partition, and the largest of its nodes.

    Attributes:
        state: UP, DOWN, DRAIN or INACTIVE; jobs are queued in UP and DOWN, and start in UP.
        nodes: number of its nodes.
        max_nodes: the most nodes per job; None for all.
        gpus, cpus, memory: the most per job on any of its nodes; memory in bytes.
        time_s: the longest time limit in seconds; None for no limit.
        default_time_s: the default time limit in seconds; None for the longest.
        preempt_mode: what happens to preempted jobs: OFF, REQUEUE, CANCEL, SUSPEND.
        grace_s: seconds until a preempted job is ended.
        priority_tier: jobs of a higher tier go first, and may preempt.
        accounts, qos: whose jobs are admitted; None for all.
    """

    name: str
    default: bool = False
    state: str = "UP"
    nodes: int = 1
    max_nodes: int | None = None
    gpus: int = 0
    cpus: int = 1
    memory: int = 0
    time_s: int | None = None
    default_time_s: int | None = None
    preempt_mode: str = "OFF"
    grace_s: int = 0
    priority_tier: int = 1
    accounts: frozenset[str] | None = None
    qos: frozenset[str] | None = None

    @property
    def up(self) -> bool:
        return self.state == "UP"

    @property
    def requeues(self) -> bool:
        """Whether a preempted job is requeued."""
        return "REQUEUE" in self.preempt_mode.split(",")


@dataclass(frozen=True)
class Association:
    """An account that a user may charge, with its qualities of service."""

    account: str
    qos: frozenset[str]
    partition: str | None = None


@dataclass(frozen=True)
class Cluster:
    """SLURM's configuration that is checked before a job is queued.

    Attributes:
        enforced: which of `associations`, `limits`, `qos`, ... SLURM enforces; otherwise any account is allowed.
        preempts_by_partition: whether jobs of a partition with a higher tier preempt those of a lower one.
        associations: what the user may charge; empty if unknown.
    """

    partitions: dict[str, Partition]
    nodes: tuple[Node, ...]
    enforced: frozenset[str] = frozenset()
    preempts_by_partition: bool = False
    associations: tuple[Association, ...] = ()


# --- parsing


def _records(kind: str) -> list[dict[str, str]]:
    """All nodes, or all partitions, including those hidden from this user."""
    lines = answer("scontrol", "show", kind, "--oneliner", "--all").splitlines()
    return [fields_of(line) for line in lines if re.match(r"\w+Name=", line)]


def _settings() -> dict[str, str]:
    """`scontrol show config`, whose lines are `Key   = value`."""
    pairs = (line.partition("=") for line in answer("scontrol", "show", "config").splitlines())
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) - {"", "(null)"}


def _unless_all(text: str) -> frozenset[str] | None:
    return None if text in ("", "ALL", "(null)") else _names(text)


def _gpus(gres: str) -> int:
    """GPUs of a node, in any of the forms `gpu:2`, `gpu:a100:4(S:0,1),gpu:v100:2,mps:100`."""
    entries = [entry.split(":") for entry in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return sum(integer_of(entry[-1]) or 0 if entry[-1].isdigit() else 1 for entry in entries if entry[0] == "gpu")


# --- queries


def _node(record: dict[str, str]) -> Node:
    states = {re.sub(r"[^A-Z_]", "", word) for word in record["State"].split("+")}
    features = _names(record.get("AvailableFeatures", "")) | _names(record.get("ActiveFeatures", ""))
    reserved = integer_of(record.get("MemSpecLimit", "")) or 0
    return Node(
        name=record["NodeName"],
        host=record.get("NodeHostName", record["NodeName"]),
        address=record.get("NodeAddr", record["NodeName"]),
        partitions=_names(record.get("Partitions", "")),
        features=features,
        usable=not states & _UNUSABLE,
        gpus=_gpus(record.get("Gres", "")),
        cpus=int(record.get("CPUEfctv", record["CPUTot"])),
        memory=(int(record["RealMemory"]) - reserved) * 2**20,
    )


def nodes() -> tuple[Node, ...]:
    """All nodes."""
    return tuple(_node(record) for record in _records("node"))


def _partition(record: dict[str, str], everywhere: Sequence[Node]) -> Partition:
    name = record["PartitionName"]
    own = [node for node in everywhere if name in node.partitions]
    cpus, memory = max((n.cpus for n in own), default=0), max((n.memory for n in own), default=0)
    most_cpus, most_memory = integer_of(record.get("MaxCPUsPerNode", "")), integer_of(record.get("MaxMemPerNode", ""))
    return Partition(
        name=name,
        default=record.get("Default") == "YES",
        state=record["State"],
        nodes=int(record["TotalNodes"]),
        max_nodes=integer_of(record.get("MaxNodes", "")),
        gpus=max((n.gpus for n in own), default=0),
        cpus=cpus if most_cpus is None else min(cpus, most_cpus),
        memory=memory if not most_memory else min(memory, most_memory * 2**20),
        time_s=seconds(record.get("MaxTime", "")),
        default_time_s=seconds(record.get("DefaultTime", "")),
        preempt_mode=record.get("PreemptMode", "OFF"),
        grace_s=integer_of(record.get("GraceTime", "")) or 0,
        priority_tier=integer_of(record.get("PriorityTier", "")) or 0,
        accounts=_unless_all(record.get("AllowAccounts", "")),
        qos=_unless_all(record.get("AllowQos", "")),
    )


def _partitions(everywhere: Sequence[Node]) -> dict[str, Partition]:
    found = [_partition(record, everywhere) for record in _records("partition")]
    return {partition.name: partition for partition in found}


def partitions() -> dict[str, Partition]:
    """All partitions, including hidden ones, by name.

    Raises:
        SlurmError: if the controller does not answer, here and in the queries below.
    """
    return _partitions(nodes())


def _has_accounting(settings: dict[str, str]) -> bool:
    return settings.get("AccountingStorageType", "").endswith("/slurmdbd")


def accounting() -> bool:
    """Whether SLURM has accounting, so that sacct and sacctmgr answer."""
    return _has_accounting(_settings())


def requeues() -> bool:
    """Whether SLURM requeues jobs by itself unless they ask it not to (JobRequeue)."""
    return _settings().get("JobRequeue", "1") != "0"


def this_user() -> str:
    """The name of the submitting user; the number if it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def associations(user: str) -> tuple[Association, ...]:
    """What a user may charge; empty without accounting, or if unknown."""
    question = ["show", "assoc", f"user={user}", "format=account,qos,partition"]
    try:
        printed = answer("sacctmgr", "--noheader", "--parsable2", *question)
    except SlurmError:
        return ()
    rows = [line.split("|") for line in printed.splitlines() if line.count("|") == 2]
    return tuple(Association(account, _names(qos), partition or None) for account, qos, partition in rows)


def read_cluster(user: str | None = None) -> Cluster:
    """The cluster as a user (by default this one) may use it; three queries, and one more with accounting."""
    settings = _settings()
    everywhere = nodes()
    return Cluster(
        partitions=_partitions(everywhere),
        nodes=everywhere,
        enforced=_names(settings.get("AccountingStorageEnforce", "")) - {"none"},
        preempts_by_partition=settings.get("PreemptType") == "preempt/partition_prio",
        associations=associations(user or this_user()) if _has_accounting(settings) else (),
    )
