"""This process's rank: read from the variables that a launcher sets, or refused. No torch here."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from phalanx.configs.errors import UserError

Launcher = Literal["alone", "torchrun", "slurm"]

# Set by torchrun, accelerate launch and hand-written launchers. An address alone does not make a rank.
_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")

# SLURM numbers its own steps (batch, extern, interactive) from the top; a step of `srun` has a small number.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of a run.

    Attributes:
        rank, world: this rank, and the number of ranks.
        local_rank, local_world: the same within this node.
        node: index of this node.
        launcher: what started the ranks; `torchrun` stands for accelerate launch too, which uses it.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    node: int = 0
    launcher: Launcher = "alone"

    @property
    def is_main(self) -> bool:
        """Whether this rank acts for all: writes logs, run files and manifests."""
        return self.rank == 0


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"the environment variable {name}={text!r} is not a rank. Start with `phalanx train`, or unset it.")
    return int(text)


def _checked(ranks: Ranks) -> Ranks:
    if not (0 <= ranks.rank < ranks.world and 0 <= ranks.local_rank < ranks.local_world <= ranks.world):
        raise UserError(
            f"the environment says rank {ranks.rank} of {ranks.world}, and {ranks.local_rank} of {ranks.local_world} on this "
            "node, which cannot be. Unset RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, or start with `phalanx train`."
        )
    return ranks


def _from_torchrun(environment: Mapping[str, str]) -> Ranks:
    missing = [name for name in (*_RANK, *_ADDRESS) if not environment.get(name)]
    if missing:
        found = [name for name in (*_RANK, *_ADDRESS) if environment.get(name)]
        raise UserError(
            f"the environment sets {', '.join(found)} but not {', '.join(missing)}. "
            "Set them all (torchrun and accelerate launch do), or none to train alone."
        )
    return Ranks(
        rank=_number(environment, "RANK"),
        world=_number(environment, "WORLD_SIZE"),
        local_rank=_number(environment, "LOCAL_RANK"),
        local_world=_number(environment, "LOCAL_WORLD_SIZE"),
        node=_number(environment, "GROUP_RANK") if environment.get("GROUP_RANK") else 0,
        launcher="torchrun",
    )


def _tasks_on_node(environment: Mapping[str, str], node: int) -> int:
    """SLURM_STEP_TASKS_PER_NODE is `2(x3),1`: two tasks on each of three nodes, one on the fourth."""
    counts: list[int] = []
    for part in environment["SLURM_STEP_TASKS_PER_NODE"].split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE={environment['SLURM_STEP_TASKS_PER_NODE']!r} cannot be read.")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts[node]


def in_slurm_step(environment: Mapping[str, str]) -> bool:
    """Whether `srun` started this process; a batch script and the shell of `salloc` count as alone."""
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < _FIRST_SPECIAL_STEP and "SLURM_STEP_NUM_TASKS" in environment


def _from_slurm(environment: Mapping[str, str]) -> Ranks:
    needed = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_JOB_ID")
    missing = [name for name in needed if not environment.get(name)]
    if missing:
        raise UserError(f"this is a step of srun, but {', '.join(missing)} is not set. Keep srun's variables.")
    node = _number(environment, "SLURM_NODEID")
    return Ranks(
        rank=_number(environment, "SLURM_PROCID"),
        world=_number(environment, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(environment, "SLURM_LOCALID"),
        local_world=_tasks_on_node(environment, node),
        node=node,
        launcher="slurm",
    )


def find(environment: Mapping[str, str] = os.environ) -> Ranks:
    """The ranks that this process belongs to.

    Raises:
        UserError: on an environment that is incomplete or contradicts itself, and if accelerate launch was asked for
            several processes but started one.
    """
    if any(environment.get(name) for name in _RANK):
        return _checked(_from_torchrun(environment))
    if in_slurm_step(environment):
        return _checked(_from_slurm(environment))
    if environment.get("ACCELERATE_MIXED_PRECISION") and environment.get("MASTER_ADDR"):
        # accelerate launch --cpu sets an address for its processes, then starts a single one, without a rank.
        raise UserError(
            "accelerate launch was asked for several processes but started one. Without GPUs use "
            "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N ...`, or `phalanx train --nproc N`."
        )
    return Ranks()


def attempt(environment: Mapping[str, str] = os.environ) -> str:
    """The name that ranks started together share: job and restart, or the folder of `phalanx train`."""
    if environment.get("SLURM_JOB_ID"):
        return f"{environment['SLURM_JOB_ID']}-{environment.get('SLURM_RESTART_COUNT', '0')}"
    return os.path.basename(environment.get("PHALANX_MAILBOX", ""))


def start_of_run(environment: Mapping[str, str]) -> str:
    """A name for this start of the run that each of its ranks derives by itself, before they meet."""
    names = ("SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")
    return "/".join((attempt(environment), *(environment.get(name, "") for name in names)))


def without_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that make a process a rank, for a launcher that sets them itself."""
    own = {*_RANK, *_ADDRESS, "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE"}
    own |= {"SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"}  # these make a step of srun
    launchers = ("TORCHELASTIC_", "ACCELERATE_")
    return {
        k: v
        for k, v in environment.items()
        if k in ("ACCELERATE_USE_CPU", "ACCELERATE_CONFIG_FILE") or (k not in own and not k.startswith(launchers))
    }
