"""Starting ranks from the command line: as many processes as asked for, or this one."""

import importlib
import os
from collections.abc import Sequence

from phalanx.configs.schema import RunConfig
from phalanx.dist.environment import find
from phalanx.dist.spawn import default_processes, spawn
from phalanx.launch.say import run_directory
from phalanx.train.checks import check


def start(module: str, config: RunConfig, processes: int | None, arguments: Sequence[str]) -> int:
    """Checks what can be checked, then runs a rank's module: here, if one process is enough, or in processes of its own.

    Args:
        processes: as asked for, which wins over a scheduler's variables; None joins the ranks found in the environment.

    Raises:
        UserError: on bad input.
    """
    if processes is None:
        found = find()
        processes = default_processes(config.dist) if found.launcher == "alone" else None
    else:
        found = None
    if processes is None or processes == 1:
        if found is None:
            _forget_ranks()
        code: int = importlib.import_module(module).main(arguments)
        return code
    check(config, processes)
    if module.endswith(".train"):
        run_directory(config)
    return spawn(module, arguments, processes, config.dist)


def _forget_ranks() -> None:
    """`--nproc 1` means alone, whatever a scheduler says."""
    from phalanx.dist.environment import without_ranks

    alone = without_ranks(os.environ)
    for name in set(os.environ) - set(alone):
        del os.environ[name]
