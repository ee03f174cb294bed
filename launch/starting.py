"""Starting ranks from the command line: as many processes as asked for, or this one."""

import importlib
import os
from collections.abc import Sequence

from phalanx.configs.schema import RunConfig
from phalanx.dist.ownership.run_owner import refuse_second
from phalanx.dist.processes.environment import find, without_ranks
from phalanx.dist.processes.spawn import default_processes, spawn
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.launch.say import run_directory
from phalanx.train.setup.checks import check


def start(module: str, config: RunConfig, processes: int | None, arguments: Sequence[str]) -> int:
    """Checks the run, then starts a rank's module: in this process, if one is enough, or in separate processes.

    Args:
        processes: the requested number, which overrides a scheduler's variables; None joins the environment's ranks.

    Raises:
        UserError: on bad input.
    """
    if processes == 1:
        _forget_ranks()
    if processes is None and find().launcher != "alone":
        return _here(module, arguments)
    if module.endswith(".train"):
        refuse_second(RunDirectory.of(config))
    processes = processes or default_processes(config.dist)
    if processes == 1:
        return _here(module, arguments)
    check(config, processes)
    if module.endswith(".train"):
        run_directory(config)
    return spawn(module, arguments, processes, config.dist)


def _here(module: str, arguments: Sequence[str]) -> int:
    """Runs this process as the rank, or as one of a launcher's ranks."""
    code: int = importlib.import_module(module).main(arguments)
    return code


def _forget_ranks() -> None:
    """Removes a scheduler's variables: `--nproc 1` means a single rank."""
    for name in set(os.environ) - set(without_ranks(os.environ)):
        del os.environ[name]
