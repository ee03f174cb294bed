"""What the command and the ranks both say, once."""

import os

from phalanx.configs.schema import RunConfig
from phalanx.dist.processes import rank_status
from phalanx.dist.storage.run_directory import RunDirectory


def run_directory(config: RunConfig) -> None:
    """The run directory, first of all; the ranks of a command that has said it keep silent."""
    if rank_status.VARIABLE not in os.environ:
        print(RunDirectory.of(config).path, flush=True)
