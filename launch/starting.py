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
    """Checks what can be checked, then runs a rank's module: here, if one process is enough, or in processes of its own.

    Args:
        processes: as asked for, which wins over a scheduler's variables; None joins the ranks found in the environment.

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
    """This process is the rank, or one of those that a launcher started."""
    code: int = importlib.import_module(module).main(arguments)
    return code


def _forget_ranks() -> None:
    """`--nproc 1` means alone, whatever a scheduler says."""
    for name in set(os.environ) - set(without_ranks(os.environ)):
        del os.environ[name]
