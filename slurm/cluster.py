"""What SLURM says of its partitions, nodes and accounts, as its own commands report them."""

import os
import pwd
import re
from collections.abc import Sequence
from dataclasses import dataclass

from phalanx.slurm.ask import SlurmError, answer, fields_of, seconds, whole

_UNUSABLE = {"DOWN", "DRAIN", "DRAINED", "DRAINING", "ERROR", "FAIL", "FAILING", "INVAL", "NOT_RESPONDING", "UNKNOWN"}


@dataclass(frozen=True)
class Node:
    """A node as it is configured.

    Attributes:
        host: name of the machine that it runs on.
        address: how the controller reaches it.
        usable: whether it is neither down nor drained.
        memory: bytes that jobs may have.
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
        nodes: how many nodes it has.
        max_nodes: most nodes that one job may have; None for all.
        gpus, cpus, memory: the most that any of its nodes lets one job have; memory in bytes.
        time_s: longest time limit in seconds; None for no limit.
        default_time_s: time limit in seconds of a job that gives none; None for the longest.
        preempt_mode: what happens to jobs that are preempted: OFF, REQUEUE, CANCEL, SUSPEND.
        grace_s: seconds that a preempted job has left.
        priority_tier: jobs of a higher tier go first, and may preempt.
        accounts, qos: whose jobs are let in; None for all.
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
        """Whether a job that is preempted goes back into the queue."""
        return "REQUEUE" in self.preempt_mode.split(",")


@dataclass(frozen=True)
class Association:
    """An account that a user may charge, and the qualities of service that go with it."""

    account: str
    qos: frozenset[str]
    partition: str | None = None


@dataclass(frozen=True)
class Cluster:
    """All that is asked before a job is queued.

    Attributes:
        enforced: what SLURM insists on, of `associations`, `limits`, `qos`, ...; others may name any account.
        preempts_by_partition: whether jobs of a partition with a higher tier preempt those of a lower one.
        associations: what the user may charge; empty where that cannot be told.
    """

    partitions: dict[str, Partition]
    nodes: tuple[Node, ...]
    enforced: frozenset[str] = frozenset()
    preempts_by_partition: bool = False
    associations: tuple[Association, ...] = ()


# --- how it is printed


def _records(kind: str) -> list[dict[str, str]]:
    """All nodes, or all partitions, those too that are hidden from this user."""
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
    """GPUs of a node in whatever form: `gpu:2`, `gpu:a100:4(S:0,1),gpu:v100:2,mps:100`."""
    entries = [entry.split(":") for entry in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return sum(whole(entry[-1]) or 0 if entry[-1].isdigit() else 1 for entry in entries if entry[0] == "gpu")


# --- questions


def _node(record: dict[str, str]) -> Node:
    states = {re.sub(r"[^A-Z_]", "", word) for word in record["State"].split("+")}
    features = _names(record.get("AvailableFeatures", "")) | _names(record.get("ActiveFeatures", ""))
    reserved = whole(record.get("MemSpecLimit", "")) or 0
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
    most_cpus, most_memory = whole(record.get("MaxCPUsPerNode", "")), whole(record.get("MaxMemPerNode", ""))
    return Partition(
        name=name,
        default=record.get("Default") == "YES",
        state=record["State"],
        nodes=int(record["TotalNodes"]),
        max_nodes=whole(record.get("MaxNodes", "")),
        gpus=max((n.gpus for n in own), default=0),
        cpus=cpus if most_cpus is None else min(cpus, most_cpus),
        memory=memory if not most_memory else min(memory, most_memory * 2**20),
        time_s=seconds(record.get("MaxTime", "")),
        default_time_s=seconds(record.get("DefaultTime", "")),
        preempt_mode=record.get("PreemptMode", "OFF"),
        grace_s=whole(record.get("GraceTime", "")) or 0,
        priority_tier=whole(record.get("PriorityTier", "")) or 0,
        accounts=_unless_all(record.get("AllowAccounts", "")),
        qos=_unless_all(record.get("AllowQos", "")),
    )


def _partitions(everywhere: Sequence[Node]) -> dict[str, Partition]:
    found = [_partition(record, everywhere) for record in _records("partition")]
    return {partition.name: partition for partition in found}


def partitions() -> dict[str, Partition]:
    """All partitions, hidden ones too, by name.

    Raises:
        SlurmError: where the controller does not answer, here and in all that follows.
    """
    return _partitions(nodes())


def _has_accounting(settings: dict[str, str]) -> bool:
    return settings.get("AccountingStorageType", "").endswith("/slurmdbd")


def accounting() -> bool:
    """Whether a slurmdbd keeps accounts, so that sacct and sacctmgr answer."""
    return _has_accounting(_settings())


def this_user() -> str:
    """The user whose jobs these would be, by name; by number where it has none."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def associations(user: str) -> tuple[Association, ...]:
    """What a user may charge; empty where there is no accounting, or it does not say."""
    question = ["show", "assoc", f"user={user}", "format=account,qos,partition"]
    try:
        printed = answer("sacctmgr", "--noheader", "--parsable2", *question)
    except SlurmError:
        return ()
    rows = [line.split("|") for line in printed.splitlines() if line.count("|") == 2]
    return tuple(Association(account, _names(qos), partition or None) for account, qos, partition in rows)


def read_cluster(user: str | None = None) -> Cluster:
    """The whole cluster, as a user (this one) may use it; three questions, and one more where there is accounting."""
    settings = _settings()
    everywhere = nodes()
    return Cluster(
        partitions=_partitions(everywhere),
        nodes=everywhere,
        enforced=_names(settings.get("AccountingStorageEnforce", "")) - {"none"},
        preempts_by_partition=settings.get("PreemptType") == "preempt/partition_prio",
        associations=associations(user or this_user()) if _has_accounting(settings) else (),
    )
