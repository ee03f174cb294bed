"""phalanx doctor [--runs FOLDER] [--nproc N] [--quick] [--json] [--slurm PARTITION]"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from phalanx.configs.errors import ExitCode, UserError, printable
from phalanx.dist.processes.gpus import count_gpus
from phalanx.launch.arguments import Parser, positive
from phalanx.launch.doctor_checks.diagnosis import Diagnosis

_COLOURS = {"green": "\033[32m", "yellow": "\033[33m", "red": "\033[31m"}
_NODES_TIMEOUT_S = 600


def main(arguments: Sequence[str]) -> int:
    parser = Parser(
        prog="phalanx doctor",
        description="Checks whether training works here: packages, GPUs, ranks, disk, SLURM, W&B; and kills and resumes a "
        "small run. Each finding is green, yellow or red, with a remedy. The exit code is 1 if one is red.",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="folder of run directories (default: runs)"
    )
    parser.add_argument("--nproc", type=positive, metavar="N", help="ranks to start (default: one per GPU, or two)")
    parser.add_argument("--quick", action="store_true", help="start no ranks and no run")
    parser.add_argument("--slurm", metavar="PARTITION", help="check every node of a partition, quickly")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each node")
    given = parser.parse_args(arguments)
    if given.slurm is not None:
        return _every_node(given.slurm, given.runs, given.json)
    found = []
    for one in _checked(given.runs, given.nproc or count_gpus() or 2, given.quick):
        found.append(one)
        if not given.json:
            _print(one)
    if given.json:
        print(json.dumps({"host": socket.gethostname(), "found": [one.to_json() for one in found]}))
    return ExitCode.FAILED if any(one.level == "red" for one in found) else ExitCode.DONE


def _checked(runs: Path, processes: int, quick: bool) -> Iterator[Diagnosis]:
    from phalanx.launch.doctor_checks.disk import disk
    from phalanx.launch.doctor_checks.machine import machine
    from phalanx.launch.doctor_checks.services import slurm, wandb
    from phalanx.launch.doctor_checks.software import software

    yield from software()
    yield from machine()
    on_cluster = list(slurm())
    yield from disk(runs, on_slurm=any(one.check == "SLURM" and one.level == "green" for one in on_cluster))
    yield from on_cluster
    yield from wandb()
    if not quick:
        from phalanx.launch.doctor_checks.ranks import ranks
        from phalanx.launch.doctor_checks.survival import survival

        yield from ranks(processes)
        yield from survival(processes, runs)


def _print(one: Diagnosis, where: str = "") -> None:
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    level = f"{_COLOURS[one.level]}{one.level:6}\033[0m" if coloured else f"{one.level:6}"
    print(f"{level}  {where}{one.check}: {printable(one.said)}" + (f". {one.remedy}" if one.remedy else ""), flush=True)


def _every_node(partition: str, runs: Path, as_json: bool) -> int:
    """Runs the quick checks on every node of a partition, and prints what is not green.

    Raises:
        UserError: if there is no such partition, or its nodes do not answer.
    """
    from phalanx.slurm import ask, cluster

    try:
        known = cluster.partitions()
    except ask.SlurmError as error:
        raise UserError(f"--slurm: {error}.") from None
    if partition not in known:
        raise UserError(f"--slurm {partition}: there is no such partition. There are {', '.join(known)}.")
    nodes = sum(partition in node.partitions and node.usable for node in cluster.nodes())
    answers, last_words = _answers(partition, nodes, runs)
    lines = [line for answer in answers for line in answer.splitlines() if line.startswith("{")]
    if as_json:
        print("\n".join(lines))
    worst = []
    for line in lines:
        told = json.loads(line)
        found = [Diagnosis(**one) for one in told["found"]]
        worst += [one.level for one in found]
        if not as_json:
            amiss = [one for one in found if one.level != "green"]
            for one in amiss or [Diagnosis("all checks", "green", f"{len(found)} are as they should be")]:
                _print(one, f"{told['host']}: ")
    if len(lines) < nodes:
        raise UserError(f"--slurm {partition}: {nodes - len(lines)} of {nodes} nodes did not answer: {last_words}")
    return ExitCode.FAILED if "red" in worst else ExitCode.DONE


def _answers(partition: str, nodes: int, runs: Path) -> tuple[list[str], str]:
    """What each node prints, and what srun said last. A file for each: srun breaks long lines, and mixes those of nodes."""
    there = runs.resolve()
    while not there.is_dir():
        there = there.parent
    command = ["srun", f"--partition={partition}", f"--nodes={nodes}", "--ntasks-per-node=1"]
    command += [f"--time={_NODES_TIMEOUT_S // 60}"]
    with tempfile.TemporaryDirectory(prefix=".phalanx-doctor-", dir=there) as folder:
        asked = ["doctor", "--quick", "--json", "--runs", str(runs.absolute())]
        command += [f"--output={folder}/node-%n.json", sys.executable, "-m", "phalanx.launch.main", *asked]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_NODES_TIMEOUT_S, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            late = f"{nodes} nodes did not all answer in {_NODES_TIMEOUT_S} s. Try again when they are free."
            raise UserError(f"--slurm {partition}: {late}") from None
        said = done.stderr.strip().splitlines() or [f"they may not see {there}"]
        return [file.read_text() for file in sorted(Path(folder).glob("node-*.json"))], said[-1]
