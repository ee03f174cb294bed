"""Messages that either the command or the ranks print, once."""

import os

from phalanx.configs.schema import RunConfig
from phalanx.dist.processes import rank_status
from phalanx.dist.storage.run_directory import RunDirectory


def run_directory(config: RunConfig) -> None:
    """Prints the run directory, first of all; ranks do not repeat what their command has printed."""
    if rank_status.VARIABLE not in os.environ:
        print(RunDirectory.of(config).path, flush=True)
