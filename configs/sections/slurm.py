"""The section `slurm`: what `phalanx submit` asks SLURM for, in SLURM's own forms."""

import re
from typing import Annotated

from pydantic import AfterValidator

from phalanx.configs.sections.section import Int, Section, hardware

_FORMS = (
    r"(?P<minutes>[0-9]{1,9})(:(?P<seconds>[0-9]{1,9}))?",
    r"(?P<hours>[0-9]{1,9}):(?P<minutes>[0-9]{1,9}):(?P<seconds>[0-9]{1,9})",
    r"(?P<days>[0-9]{1,9})-(?P<hours>[0-9]{1,9})(:(?P<minutes>[0-9]{1,9})(:(?P<seconds>[0-9]{1,9}))?)?",
)
_SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
_BYTES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def seconds(time: str) -> int:
    """Seconds of a time as SLURM writes it: 90 (minutes), 90:30, 1:30:00, 2-12, 2-12:30, 2-12:30:00.

    Raises:
        ValueError: where it has none of these forms.
    """
    for form in _FORMS:
        if match := re.fullmatch(form, time.strip()):
            return sum(_SECONDS[unit] * int(number) for unit, number in match.groupdict().items() if number)
    raise ValueError("minutes, minutes:seconds, hours:minutes:seconds, days-hours, or days-hours:minutes[:seconds]")


def _time(value: str) -> str:
    if seconds(value) < 60:
        raise ValueError("at least one minute, in SLURM's forms: minutes, hours:minutes:seconds, days-hours")
    return value.strip()


def size(memory: str) -> int:
    """Bytes of an amount of memory as SLURM writes it: 64G, 1T, 500M, or plain megabytes.

    Raises:
        ValueError: where it has none of these forms.
    """
    match = re.fullmatch(r"([0-9]{1,9})\s*([KMGT]?)B?", memory.strip().upper())
    if match is None:
        raise ValueError("a whole number with K, M, G or T, such as 64G; plain numbers are megabytes")
    return int(match[1]) * _BYTES[match[2] or "M"]


def _memory(value: str) -> str:
    size(value)
    return re.sub(r"[\sbB]", "", value)


def _options(value: dict[str, str]) -> dict[str, str]:
    if not all(re.fullmatch(r"-{0,2}[A-Za-z][A-Za-z0-9_-]*", name) for name in value):
        raise ValueError("names of sbatch's options, letters, digits and dashes, each with its value")
    return value


class SlurmConfig(Section):
    partition: str | None = hardware(None, "partition (queue); SLURM's default if null")
    nodes: Int = hardware(1, "number of nodes", ge=1)
    tasks_per_node: Int | None = hardware(
        None, "ranks per node; if null, one per GPU. If set without gpus_per_node, ranks run on CPUs", ge=1
    )
    gpus_per_node: Int | None = hardware(None, "GPUs per node", ge=0)
    cpus_per_gpu: Int | None = hardware(None, "CPU cores per GPU, or per rank without GPUs", ge=1)
    memory: Annotated[str, AfterValidator(_memory)] | None = hardware(None, "memory per node, such as 64G")
    time: Annotated[str, AfterValidator(_time)] | None = hardware(
        None, "time limit in any of SLURM's forms: 90 (minutes), 1:30:00, 2-12:00; the partition's if null"
    )
    account: str | None = hardware(None, "account that is charged")
    qos: str | None = hardware(None, "quality of service")
    constraint: str | None = hardware(None, "features that nodes must have, such as a100")
    exclude: str | None = hardware(None, "nodes not to run on")
    reservation: str | None = hardware(None, "reservation to run in")
    signal_before_s: Int = hardware(120, "seconds before the time limit at which the run saves and requeues itself", ge=1)
    max_requeues: Int = hardware(3, "how often in a row the job may requeue itself without progress in between", ge=0)
    setup: list[str] = hardware([], "lines of the batch script before the ranks start, such as `module load cuda`")
    extra: Annotated[dict[str, str], AfterValidator(_options)] = hardware(
        {}, "further options of sbatch, without dashes, such as container-image: lab.sqsh"
    )

    @property
    def ranks_per_node(self) -> int:
        """Ranks that run on each node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        """Ranks in all."""
        return self.nodes * self.ranks_per_node

    @property
    def seconds(self) -> int | None:
        """The time limit; None for the partition's."""
        return None if self.time is None else seconds(self.time)
