"""CPU threads per rank. No torch here."""

import os
from collections.abc import Mapping

from phalanx.configs.sections.dist import DistConfig


def choose_threads(config: DistConfig, recorded: int | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """CPU threads of a rank: as configured, else as when the run was started, else OMP_NUM_THREADS, else 1.

    The same number gives the same rounding. The default of 1 is that of torchrun and accelerate launch, so that all
    ways of launching, and all numbers of ranks, agree.
    """
    if config.threads is not None:
        return config.threads
    if recorded is not None:
        return recorded
    from_environment = environment.get("OMP_NUM_THREADS", "")
    return int(from_environment) if from_environment.isdigit() and int(from_environment) else 1
