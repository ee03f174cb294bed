"""The environment of commands that are measured or tested, whoever starts them."""

import os

from phalanx.dist.processes.environment import without_ranks

_LEFT_OUT = ("SLURM_", "ACCELERATE_", "OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "WANDB_API_KEY")


def environment() -> dict[str, str]:
    """This process's, without what a launcher or the caller's settings would change in a run."""
    kept = {key: value for key, value in without_ranks(os.environ).items() if not key.startswith(_LEFT_OUT)}
    return kept | {"ACCELERATE_CONFIG_FILE": ""}
