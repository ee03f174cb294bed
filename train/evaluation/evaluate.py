"""Evaluation over all ranks: each sample counted once, and the same figures however many ranks there are."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.data.loading.loader import EvaluationLoader
from phalanx.dist import heartbeat
from phalanx.dist.comm.collectives import gather_json, gather_rows, run_and_agree, sum_exactly
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.randomness import undisturbed
from phalanx.train.tasks import Rows, Task


def evaluate(engine: Engine, task: Task, loader: EvaluationLoader) -> dict[str, float]:
    """The task's metrics over the validation split. All ranks call together."""
    return task.metrics(measure(engine, task, loader))


def rehearse(engine: Engine, task: Task, loader: EvaluationLoader, best: str | None) -> str | None:
    """One batch of the validation split through all of an evaluation, so that its faults show before the first step.

    Leaves no trace: weights and statistics are back to the last bit, and so is every generator. All ranks call together.

    Args:
        best: `checkpoint.best`.

    Returns:
        What the user should read: metrics of a task of the user's own may not be defined on so few samples.

    Raises:
        UserError: where the batch cannot be read, or the task does not measure `best`.
    """
    heartbeat.beat("warm-up")
    ranks = engine.world.ranks
    batch = run_and_agree(engine.world, loader.example)
    sums = _Sums(engine.world.device)
    with undisturbed(engine.world.device), torch.compiler.set_stance("force_eager"):
        with engine.evaluation() as model, torch.inference_mode():
            sums.add(ranks.rank, task.measure(model, engine.to_device(batch)))
        measured = sums.over_all(engine, ranks.world)
    try:
        metrics = task.metrics(measured)
    except UserError:
        raise
    except Exception as error:
        return f"the metrics of a few validation samples could not be computed ({type(error).__name__}: {error})"
    if best is not None:
        check_best(best, metrics)
    return None


def check_best(metric: str, measured: Iterable[str]) -> None:
    """
    Raises:
        UserError: where `checkpoint.best` names no metric of the task.
    """
    there = [f"val/{name}" for name in measured]
    if metric not in there:
        raise UserError(f"checkpoint.best={metric}: the task measures {', '.join(there)}. Set one of these.", shared=True)


def measure(
    engine: Engine, task: Task, loader: EvaluationLoader, combined: Callable[[nn.Module], nn.Module] | None = None
) -> dict[str, Any]:
    """What the task measures, over the whole split: numbers, tensors, rows. All ranks call together.

    No figure depends on which rank ran which batch: whole numbers are exact in any order; floating point sums of each
    numbered batch come from one rank, and are added in the order of the batches; rows stand in that order.

    Args:
        combined: from the engine's network to the one that is asked; that itself where it is not given.
    """
    sums = _Sums(engine.world.device)
    with engine.evaluation() as plain, torch.inference_mode():
        model = plain if combined is None else combined(plain)
        for number, batch in loader:
            heartbeat.beat("evaluation")
            sums.add(number, task.measure(model, engine.to_device(batch)))
    heartbeat.beat("metrics")
    return sums.over_all(engine, loader.batches)


class _Sums:
    """What this rank has measured, until it meets the others'."""

    def __init__(self, device: torch.device):
        self._device = device
        self._counts: dict[str, Tensor] = {}  # whole numbers, added up as they come
        self._floats: dict[int, dict[str, Tensor]] = {}  # by number of the batch
        self._rows: dict[str, list[Tensor]] = {}  # in the order of the batches
        self._shapes: list[tuple[str, str, list[int]]] = []

    def add(self, number: int, measured: dict[str, Tensor | Rows]) -> None:
        self._floats[number] = {}
        shapes = []
        for name, value in sorted(measured.items()):
            if isinstance(value, Rows):
                shapes.append((name, "rows", [value.values.shape[1]]))
                self._rows.setdefault(name, []).append(value.values.detach().to("cpu", torch.float64, non_blocking=True))
                continue
            shapes.append((name, "floats" if value.is_floating_point() else "counts", list(value.shape)))
            if value.is_floating_point():
                self._floats[number][name] = value.detach().to("cpu", torch.float64, non_blocking=True).reshape(-1)
            elif name in self._counts:
                self._counts[name] += value
            else:
                self._counts[name] = value.to(torch.int64, copy=True)
        self._shapes = shapes

    def over_all(self, engine: Engine, batches: int) -> dict[str, Any]:
        """The same on every rank; a sum of shape [] as a number."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        world = engine.world
        shapes = next(found for found in gather_json(world, self._shapes) if found)  # a rank may have had no batch
        totals = self._add_floats(engine, batches, {name: shape for name, kind, shape in shapes if kind == "floats"})
        found: dict[str, Any] = {}
        for name, kind, shape in shapes:
            if kind == "rows":
                own = self._rows.get(name, [])
                found[name] = gather_rows(world, torch.cat(own) if own else torch.zeros(0, *shape, dtype=torch.float64))
                continue
            if kind == "counts":
                own_counts = self._counts.get(name, torch.zeros(shape, dtype=torch.int64)).cpu()
                total = sum_exactly(world, own_counts.clone())
            else:
                total = totals[name]
            found[name] = total if shape else float(total)
        return found

    def _add_floats(self, engine: Engine, batches: int, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
        sizes = [torch.Size(shape).numel() for shape in shapes.values()]
        table = torch.zeros(batches, sum(sizes), dtype=torch.float64)
        for number, values in self._floats.items():
            if values:
                table[number] = torch.cat([values[name] for name in shapes])
        sum_exactly(engine.world, table)
        total = torch.zeros(sum(sizes), dtype=torch.float64)
        for row in table:
            total += row
        parts = zip(shapes.items(), total.split(sizes), strict=True)
        return {name: part.reshape(shape) for (name, shape), part in parts}
