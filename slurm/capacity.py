"""Checks that a partition has the resources that a job requests."""

import re
from collections.abc import Iterable, Sequence

from phalanx.configs.sections.slurm import SlurmConfig, size
from phalanx.slurm import ask
from phalanx.slurm.cluster import Cluster, Node, Partition
from phalanx.slurm.findings import Findings, listed, megabytes, near

_ASKED = ("gpus_per_node", "tasks_per_node", "cpus_per_gpu", "memory", "constraint", "exclude")


def check_partition(slurm: SlurmConfig, partition: Partition, cluster: Cluster, found: Findings) -> None:
    """Checks that the partition accepts the job, and has large enough nodes."""
    name = partition.name
    if partition.state in ("DRAIN", "INACTIVE"):
        others = listed(p.name for p in cluster.partitions.values() if p.up)
        found.problems.append(
            f"slurm.partition={name} takes no jobs now (SLURM: State={partition.state}). "
            + (f"Set slurm.partition to one that is up: {others}." if others else "Ask your administrator.")
        )
    elif not partition.up:
        found.warnings.append(
            f"slurm.partition={name} is {partition.state}: the job is queued, but starts only when it is up again."
        )
    for key, value, let_in in (("account", slurm.account, partition.accounts), ("qos", slurm.qos, partition.qos)):
        if value is not None and let_in is not None and value not in let_in:
            found.problems.append(
                f"slurm.{key}={value}: partition {name} admits only {listed(let_in)}. Set slurm.{key} to one of them, "
                "or another slurm.partition."
            )
    _check_size(slurm, partition, [p for p in cluster.partitions.values() if p.up and p.name != name], found)


def _elsewhere(partitions: Iterable[Partition], have: str) -> str:
    """A hint at other partitions, if any."""
    names = listed(partition.name for partition in partitions)
    return f", or slurm.partition to one with {have}: {names}" if names else ""


def _check_size(slurm: SlurmConfig, partition: Partition, others: Sequence[Partition], found: Findings) -> None:
    """Compares the request with the largest that the partition has."""
    name = partition.name
    if slurm.nodes > partition.nodes:
        found.problems.append(
            f"slurm.nodes={slurm.nodes}: partition {name} has {partition.nodes}. Set slurm.nodes={partition.nodes}"
            + _elsewhere([p for p in others if p.nodes >= slurm.nodes], "more")
            + "."
        )
    elif partition.max_nodes is not None and slurm.nodes > partition.max_nodes:
        # A QOS may lift this limit, in ways that differ between clusters.
        sentence = f"slurm.nodes={slurm.nodes}: a job in partition {name} may have {partition.max_nodes} (SLURM: MaxNodes)"
        (found.problems if slurm.qos is None else found.warnings).append(f"{sentence}. Set slurm.nodes={partition.max_nodes}.")
    if (gpus := slurm.gpus_per_node or 0) > partition.gpus:
        has = f"at most {partition.gpus} GPUs" if partition.gpus else "no GPUs"
        change = f"Set slurm.gpus_per_node={partition.gpus}"
        change += "" if partition.gpus else " and slurm.tasks_per_node, for ranks on CPUs"
        found.problems.append(
            f"slurm.gpus_per_node={gpus}: nodes of partition {name} have {has}. {change}"
            + _elsewhere([p for p in others if p.gpus >= gpus], "more")
            + "."
        )
    units, unit = (slurm.gpus_per_node, "GPUs") if slurm.gpus_per_node else (slurm.ranks_per_node, "ranks")
    each = slurm.cpus_per_gpu or 1
    if units * each > partition.cpus:
        asked = f"slurm.cpus_per_gpu={each} for {units} {unit} per node is {units * each} CPUs"
        fits = partition.cpus // units
        smaller = f"slurm.cpus_per_gpu={fits}" if fits else f"slurm.tasks_per_node={partition.cpus}"
        found.problems.append(
            f"{asked}, but nodes of partition {name} have at most {partition.cpus}. Set {smaller}"
            + _elsewhere([p for p in others if p.cpus >= units * each], "more")
            + "."
        )
    if slurm.memory is not None and (memory := size(slurm.memory)) > partition.memory:
        found.problems.append(
            f"slurm.memory={slurm.memory}: nodes of partition {name} have at most {megabytes(partition.memory)}. "
            f"Set slurm.memory={megabytes(partition.memory)}"
            + _elsewhere([p for p in others if p.memory >= memory], "more")
            + "."
        )


def _features(constraint: str) -> list[str]:
    """The features that a constraint names: `[rack1|rack2]&a100*2` names three."""
    return [word for word in re.split(r"[&|,()\[\]]", re.sub(r"\*\d+", "", constraint)) if word]


def check_nodes(slurm: SlurmConfig, partition: Partition, own: Sequence[Node], found: Findings) -> None:
    """Checks that enough nodes have all requested resources at once."""
    wanted = _features(slurm.constraint) if slurm.constraint else []
    there = frozenset(feature for node in own for feature in node.features)
    for feature in wanted:
        if feature not in there:
            has = f"but {listed(there)}" if there else "nor any other"
            found.problems.append(
                f"slurm.constraint={slurm.constraint}: no node of partition {partition.name} has the feature {feature}, {has}."
                f"{near(feature, there)} Set slurm.constraint to one of them, or leave it out."
            )
    if found.problems:
        return  # each by itself explains why no node fits
    needed = frozenset() if slurm.constraint and re.search(r"[|\[(*]", slurm.constraint) else frozenset(wanted)
    cpus = (slurm.gpus_per_node or slurm.ranks_per_node) * (slurm.cpus_per_gpu or 1)
    memory = size(slurm.memory) if slurm.memory else 0
    excluded = ask.hosts(slurm.exclude) if slurm.exclude else ()
    fit = [
        node
        for node in own
        if node.gpus >= (slurm.gpus_per_node or 0) and node.cpus >= cpus and node.memory >= memory
        if needed <= node.features and node.name not in excluded
    ]
    asked = [f"slurm.{key}={value}" for key in _ASKED if (value := getattr(slurm, key)) is not None]
    if len(fit) < slurm.nodes:
        found.problems.append(
            f"slurm.nodes={slurm.nodes}: of the {len(own)} nodes of partition {partition.name}, {len(fit)} have all of "
            f"{', '.join(asked) or 'what a rank needs'}. Request less of these, or fewer slurm.nodes."
        )
    elif (usable := sum(node.usable for node in fit)) < slurm.nodes:
        found.warnings.append(
            f"slurm.nodes={slurm.nodes}: only {usable} of the {len(fit)} nodes of partition {partition.name} that fit are "
            "neither down nor drained: the job waits for the others."
        )
