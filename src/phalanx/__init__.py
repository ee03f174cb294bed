"""Phalanx: distributed training of vision models, where an experiment is not its hardware.

From Python: `phalanx.fit`, `phalanx.load`, `phalanx.evaluate` and `phalanx.runs` (see `phalanx.launch.api`); and
`phalanx.Training`, for a loop of your own (see `phalanx.train.own_loop`). The rooms are imported by name: `phalanx.configs`, `phalanx.dist`, `phalanx.models`, `phalanx.data`, `phalanx.train`, `phalanx.launch`,
`phalanx.slurm`. This module imports nothing heavy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phalanx.configs.errors import TrainingFailed, UserError
    from phalanx.launch.api import Runs, TrainedRun, evaluate, fit, load, runs
    from phalanx.train.own_loop import Training

__version__ = "0.1.0"
__all__ = ["Runs", "TrainedRun", "Training", "TrainingFailed", "UserError", "evaluate", "fit", "load", "runs"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Training":
        from phalanx.train.own_loop import Training

        return Training
    from phalanx.launch import api

    return getattr(api, name)
