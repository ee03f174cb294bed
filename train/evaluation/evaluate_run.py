"""Evaluating a run, or an ensemble of several, from checkpoints, on any number of ranks."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import nn

from phalanx.configs.errors import ExitCode, UserError
from phalanx.configs.schema import RunConfig
from phalanx.data.dataset import Dataset
from phalanx.dist.checkpoint import directory
from phalanx.dist.checkpoint.manifest import scalars_to_json
from phalanx.dist.comm.collectives import run_and_agree
from phalanx.dist.comm.process_group import World, leave
from phalanx.dist.processes.environment import Ranks
from phalanx.dist.storage.durable_files import write_json
from phalanx.dist.storage.run_directory import RunDirectory
from phalanx.train.evaluation.evaluate import measure
from phalanx.train.evaluation.results_file import ResultsFile
from phalanx.train.evaluation.trained import another
from phalanx.train.setup import resume_checkpoint
from phalanx.train.setup.build import build_distributed, build_local, data_info
from phalanx.train.setup.same_data import held_for_evaluation, refuse_other_classes
from phalanx.train.start import join_ranks
from phalanx.train.tasks import Combines, Details, GivesResults, Illustrates, Task
from phalanx.train.tracking.progress import ProgressLine

FILE = "evaluation.json"


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    Attributes:
        step: the checkpoint's; None for the newest, or the best.
        best: whether to evaluate the best by `checkpoint.best`.
        also: further runs and checkpoints of the ensemble.
        results: file for the detections, in COCO's format.
        split: the data's split; None for the recipe's validation split.
    """

    step: int | None = None
    best: bool = False
    also: Sequence[str] = ()
    results: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        checkpoints: the evaluated ones, the run's own first.
        details: results that are too long for a log: one row per class, a confusion matrix.
        notes: sentences about the data.
    """

    step: int
    split: str
    checkpoints: list[str]
    metrics: dict[str, float]
    details: dict[str, Any]
    notes: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        origin = {"step": self.step, "split": self.split, "checkpoints": self.checkpoints}
        found: dict[str, Any] = scalars_to_json(origin | self.metrics | self.details)
        return found


def evaluate_run(
    config: RunConfig, ranks: Ranks, request: Request, report: Callable[[Evaluation, str | None], None]
) -> ExitCode:
    """Evaluates a checkpoint of a run on the validation split; writes `evaluation.json`, and pictures if the task draws them.

    Args:
        report: called on rank 0 with the result, and the reason if it could not be written.

    Raises:
        UserError: if there is no such checkpoint, or the networks cannot form an ensemble.
    """
    world, _ = join_ranks(config, ranks)
    run = RunDirectory.of(config)
    local = run_and_agree(world, lambda: build_local(_on_split(config, request.split), resuming=True))
    run_and_agree(world, lambda: refuse_other_classes(run, config, local.training))
    parts = build_distributed(config, local, world)
    stored = resume_checkpoint.chosen(run, parts.engine, config, request.step, request.best)
    parts.engine.allocate_state(stored)
    resume_checkpoint.fill(run, parts.engine, stored)
    checkpoints = [directory.step_directory(run.checkpoints, stored.step)]
    combined: Callable[[nn.Module], nn.Module] | None = None
    task = parts.task
    if request.also:
        if not isinstance(task, Combines):
            raise UserError(f"task.name={config.task.name} does not support ensembles. Leave out --also.", shared=True)
        known = data_info(local.training, config)
        found = run_and_agree(world, lambda: [another(text, config, known, world.device) for text in request.also])
        checkpoints += [path for path, _ in found]
        combined = _ensemble_with(task, [network for _, network in found])
    with _results(request, config, task, local.validation, world):
        line = ProgressLine(0, 0, ranks.is_main, sys.stderr)  # the result on stdout may be JSON
        sums = measure(parts.engine, task, parts.evaluation, combined, progress=partial(line.part, "evaluation"))
        line.clear()
    if ranks.is_main:
        details = task.details(sums) if isinstance(task, Details) else {}
        held_out = config.data.fold or config.data.val_fraction
        split = request.split or ("val" if held_out else config.data.val_split)
        notes = [] if request.split else held_for_evaluation(run, local.validation)
        evaluation = Evaluation(stored.step, split, [str(path) for path in checkpoints], task.metrics(sums), details, notes)
        problem = _write(run.path / FILE, evaluation)
        if isinstance(task, Illustrates):
            problem = problem or _draw(run.path / "pictures", task.pictures(sums))
        report(evaluation, problem)
    leave()
    return ExitCode.DONE


def _on_split(config: RunConfig, split: str | None) -> RunConfig:
    """The configuration with another, complete validation split."""
    if split is None:
        return config
    data = config.data.model_copy(update={"val_split": split, "val_fraction": None, "fold": None})
    return config.model_copy(update={"data": data})


def _results(
    request: Request, config: RunConfig, task: Task, dataset: Dataset, world: World
) -> contextlib.AbstractContextManager[object]:
    """The file for the task's detections, if one was requested."""
    if not request.results:
        return contextlib.nullcontext()
    if not isinstance(task, GivesResults):
        raise UserError(f"--results is for detection, and task.name={config.task.name} has none. Leave it out.", shared=True)
    results = ResultsFile(world, Path(request.results))
    task.give_results(results.add, dataset)
    return results


def _ensemble_with(task: Combines, others: Sequence[nn.Module]) -> Callable[[nn.Module], nn.Module]:
    return lambda own: task.combine([own, *others]).eval()


def _write(path: Path, evaluation: Evaluation) -> str | None:
    """Writes the file atomically; returns the reason if it could not."""
    try:
        write_json(path, evaluation.to_json() | {"time": time.time()})
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"
    return None


def _draw(folder: Path, pictures: Mapping[str, Image]) -> str | None:
    """Writes pictures by their names; returns the reason if it could not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            picture.save(folder / f"{name}.png")
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or error}"
    return None
