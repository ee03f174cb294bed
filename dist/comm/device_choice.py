"""Which GPU a rank takes: the ranks publish which ones they see, and rank 0 assigns them by one pure function.

Launchers differ in what they show. torchrun, accelerate launch and srun without binding show every rank all GPUs of its node;
`srun --gpus-per-task=N` shows each task its own, which it numbers from 0. Numbers cannot tell these apart, so GPUs are compared
by their UUIDs.
"""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from phalanx.configs.errors import RanksApart, TrainingFailed, UserError
from phalanx.dist.processes.environment import Launcher, Ranks
from phalanx.dist.processes.gpus import mig_instance, visible_names

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

    from phalanx.configs.sections.dist import DistConfig

_ASSIGNED = "gpus assigned"


@dataclass(frozen=True)
class VisibleGpus:
    """What one rank sees.

    Attributes:
        host: its node's name.
        local_rank: its rank within the node.
        gpus: UUIDs, or ids of MIG instances, in the order in which it numbers them.
        promised: whether SLURM gave it GPUs.
    """

    host: str
    local_rank: int
    gpus: tuple[str, ...]
    promised: bool = False


class _GpuGone(Exception):
    """A rank finds no GPU, though SLURM gave it some: its node is at fault."""

    def __init__(self, rank: int, host: str):
        super().__init__(f"rank {rank} on {host} finds no GPU, though CUDA_VISIBLE_DEVICES promises it one: check the node")
        self.rank = rank


def choose_device(config: "DistConfig", ranks: Ranks, store: "Store | None" = None) -> torch.device:
    """This rank's GPU, or the CPU. All ranks call together.

    Args:
        store: where the ranks have met; None for a rank that is alone.

    Raises:
        UserError: on every rank, if there is no GPU, or one rank has none to itself.
        TrainingFailed: on a rank whose node lost its GPU; `RanksApart` on the others.
    """
    told_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if config.device == "cpu" or (config.device == "auto" and told_cpu):
        return torch.device("cpu")
    promised = ranks.launcher == "slurm" and bool(visible_names())
    if store is None:
        number = 0 if torch.cuda.is_available() else None
    else:
        own = VisibleGpus(socket.gethostname(), ranks.local_rank, visible_gpus(), promised)
        number = _exchange(own, ranks, store)
    if number is not None:
        if mig_instance() is not None:
            # Otherwise NCCL takes two instances of one GPU for one device, and refuses (github.com/NVIDIA/nccl/issues/1716).
            os.environ.setdefault("NCCL_MULTI_RANK_GPU_ENABLE", "1")
        return torch.device("cuda", number)
    if config.device == "auto":
        return torch.device("cpu")
    if torch.version.cuda is None and torch.version.hip is None:
        raise UserError(
            f"dist.device=cuda, but this torch ({torch.__version__}) is built for the CPU. Install one built for CUDA, or set "
            "dist.device=cpu.",
            shared=True,
        )
    if promised:
        raise TrainingFailed(str(_GpuGone(ranks.rank, socket.gethostname())))
    raise UserError(
        f"dist.device=cuda, but torch finds no GPU on {socket.gethostname()}. Set dist.device=cpu, or check the driver with "
        "nvidia-smi.",
        shared=True,
    )


def visible_gpus() -> tuple[str, ...]:
    """UUIDs of the GPUs that this process sees, in the order of their numbers; the id of its MIG instance if it has one."""
    if not torch.cuda.is_available():
        return ()
    torch.cuda.init()  # before this torch only estimates their number
    if (instance := mig_instance()) is not None:
        return (instance,)  # torch may give the UUID of the whole GPU, which other ranks have instances of too
    return tuple(f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in range(torch.cuda.device_count()))


def _exchange(own: VisibleGpus, ranks: Ranks, store: "Store") -> int | None:
    """The number of this rank's GPU; None if no rank sees any."""
    store.set(f"gpus/{ranks.rank}", json.dumps(asdict(own)))
    if ranks.is_main:
        seen = [_read(text) for text in store.multi_get([f"gpus/{rank}" for rank in range(ranks.world)])]
        answer: dict[str, Any] = {"numbers": None}
        try:
            if any(one.gpus for one in seen):
                answer["numbers"] = assign(seen, ranks.launcher)
        except UserError as refusal:
            answer["problem"] = str(refusal)
        except _GpuGone as gone:
            answer |= {"gone": gone.rank, "problem": str(gone)}
        store.set(_ASSIGNED, json.dumps(answer))
    answer = json.loads(store.get(_ASSIGNED))
    if "gone" in answer:
        raise TrainingFailed(answer["problem"]) if answer["gone"] == ranks.rank else RanksApart(answer["problem"])
    if "problem" in answer:
        raise UserError(answer["problem"], shared=True)
    return None if answer["numbers"] is None else int(answer["numbers"][ranks.rank])


def _read(text: bytes) -> VisibleGpus:
    found = json.loads(text)
    return VisibleGpus(found["host"], found["local_rank"], tuple(found["gpus"]), found["promised"])


def assign(seen: Sequence[VisibleGpus], launcher: Launcher) -> list[int]:
    """The number, as it counts them, of the GPU that each rank takes: the first one it sees that no lower rank took.

    Args:
        seen: what each rank sees, in the order of ranks.
        launcher: what started the ranks; the advice depends on it.

    Raises:
        UserError: if a rank has no GPU to itself.
    """
    numbers, taken = [0] * len(seen), dict[str, int]()
    for rank in sorted(range(len(seen)), key=lambda rank: (seen[rank].local_rank, rank)):
        own = seen[rank].gpus
        if not own and seen[rank].promised:
            raise _GpuGone(rank, seen[rank].host)
        if not own:
            raise UserError(_sees_none(rank, seen, launcher))
        free = next((number for number, gpu in enumerate(own) if gpu not in taken), None)
        if free is None:
            raise UserError(_sees_taken(rank, seen, taken, launcher))
        numbers[rank], taken[own[free]] = free, rank
    return numbers


def _sees_none(rank: int, seen: Sequence[VisibleGpus], launcher: Launcher) -> str:
    other = next(number for number, one in enumerate(seen) if one.gpus)
    request = "Request GPUs for all tasks (slurm.gpus_per_node)" if launcher == "slurm" else "Start ranks where there are GPUs"
    return (
        f"rank {rank} on {seen[rank].host} finds no GPU, but rank {other} on {seen[other].host} does. {request}, check the "
        f"driver on {seen[rank].host} with nvidia-smi, or set dist.device=cpu."
    )


def _sees_taken(rank: int, seen: Sequence[VisibleGpus], taken: dict[str, int], launcher: Launcher) -> str:
    own = seen[rank]
    here = [one for one in seen if one.host == own.host]
    there = {gpu for one in here for gpu in one.gpus}
    if len(own.gpus) > 1 and len(there) < len(here):
        return f"{len(here)} ranks on {own.host}, but {len(there)} GPUs. Start at most {len(there)}, or set dist.device=cpu."
    if launcher == "slurm":
        remedy = "Give each task its own: set slurm.gpus_per_node to slurm.tasks_per_node, or start srun with --gpus-per-task=1"
    else:
        remedy = "Start one rank per GPU (--nproc), or set another CUDA_VISIBLE_DEVICES for each rank"
    if len(own.gpus) > 1:
        others = ", ".join(str(taken[gpu]) for gpu in own.gpus)
        problem = f"rank {rank} on {own.host} sees {len(own.gpus)} GPUs, which ranks {others} have taken"
    else:
        (gpu,), other = own.gpus, taken[own.gpus[0]]
        problem = f"ranks {other} and {rank} on {own.host} see one and the same GPU ({gpu}), and rank {rank} sees no other"
    return f"{problem}. {remedy}, or set dist.device=cpu."
