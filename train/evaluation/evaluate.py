"""Evaluation over all ranks: each sample counts once, with the same metrics on any number of ranks."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.configs.errors import UserError
from phalanx.data.loading.loader import EvaluationLoader
from phalanx.dist import heartbeat
from phalanx.dist.comm.collectives import gather_json, gather_rows, run_and_agree, sum_exactly
from phalanx.dist.engine import Engine
from phalanx.dist.host_copy import launched, wait
from phalanx.dist.microbatches.randomness import undisturbed
from phalanx.train.evaluation.network_health import ReluWatch
from phalanx.train.tasks import Rows, Task


def evaluate(engine: Engine, task: Task, loader: EvaluationLoader) -> dict[str, float]:
    """The task's metrics over the validation split. All ranks call together."""
    return task.metrics(measure(engine, task, loader))


def rehearse(engine: Engine, task: Task, loader: EvaluationLoader, best: str | None, plateau: str | None = None) -> str | None:
    """Evaluates one validation batch, so that errors of an evaluation appear before the first step.

    Has no side effects: weights, statistics and random generators are restored to the last bit. All ranks call together.

    Args:
        best: `checkpoint.best`.
        plateau: the metric that the schedule watches.

    Returns:
        A warning, if any: a user's own task may have metrics that are undefined on so few samples.

    Raises:
        UserError: if the batch cannot be read, or the task does not measure `best` or `plateau`.
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
    for key, metric in (("checkpoint.best", best), ("schedule.metric", plateau)):
        if metric is not None:
            check_metric(key, metric, metrics)
    return None


def check_metric(key: str, metric: str, measured: Iterable[str]) -> None:
    """
    Raises:
        UserError: if what a key names is not a metric of the task.
    """
    there = [f"val/{name}" for name in measured]
    if metric not in there:
        raise UserError(f"{key}={metric}: the task measures {', '.join(there)}. Set one of these.", shared=True)


def measure(
    engine: Engine,
    task: Task,
    loader: EvaluationLoader,
    combined: Callable[[nn.Module], nn.Module] | None = None,
    relus: ReluWatch | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The task's measures over the full split: numbers, tensors, rows. All ranks call together.

    No result depends on which rank ran which batch: integers are exact in any order; floating point sums of each
    numbered batch come from one rank, and are added in the order of the batches; rows are in that order.

    Args:
        combined: maps the engine's network to the one to evaluate; the identity by default.
        relus: looks at this rank's first batch.
        progress: called after each of this rank's batches, with their number so far and in all.
    """
    sums, first, total = _Sums(engine.world.device), True, len(loader.numbers)
    with engine.evaluation() as plain, torch.inference_mode():
        model = plain if combined is None else combined(plain)
        batches = zip(loader.numbers, engine.on_device(batch for _, batch in loader), strict=True)
        for done, (number, batch) in enumerate(batches, 1):
            heartbeat.beat("evaluation")
            with relus.on(model) if first and relus is not None else nullcontext():
                sums.add(number, task.measure(model, batch))
            first = False
            if progress is not None:
                progress(done, total)
    heartbeat.beat("metrics")
    return sums.over_all(engine, loader.batches)


class _Sums:
    """This rank's measures, until they are combined with the others'."""

    def __init__(self, device: torch.device):
        self._device = device
        self._counts: dict[str, Tensor] = {}  # integers, summed at once
        self._of_batches: dict[int, dict[str, Tensor]] = {}  # floating point sums and rows by batch number, on their way here
        self._shapes: list[tuple[str, str, list[int]]] = []

    def add(self, number: int, measured: dict[str, Tensor | Rows]) -> None:
        shapes, sent = [], self._of_batches.setdefault(number, {})
        for name, value in sorted(measured.items()):
            if isinstance(value, Rows):
                shapes.append((name, "rows", [value.values.shape[1]]))
                sent[name] = launched(value.values.to(torch.float64))
                continue
            shapes.append((name, "floats" if value.is_floating_point() else "counts", list(value.shape)))
            if value.is_floating_point():
                sent[name] = launched(value.to(torch.float64).reshape(-1))
            elif name in self._counts:
                self._counts[name] += value
            else:
                self._counts[name] = value.to(torch.int64, copy=True)
        self._shapes = shapes

    def over_all(self, engine: Engine, batches: int) -> dict[str, Any]:
        """The totals, equal on every rank; a sum of shape [] as a number."""
        world = engine.world
        counts, of_batches = {name: launched(count) for name, count in self._counts.items()}, self._of_batches
        wait(self._device)
        shapes = next(found for found in gather_json(world, self._shapes) if found)  # a rank may have had no batch
        totals = _add_floats(engine, batches, of_batches, {name: shape for name, kind, shape in shapes if kind == "floats"})
        found: dict[str, Any] = {}
        for name, kind, shape in shapes:
            if kind == "rows":
                own = [values[name] for values in of_batches.values()]
                found[name] = gather_rows(world, torch.cat(own) if own else torch.zeros(0, *shape, dtype=torch.float64))
                continue
            if kind == "counts":
                own_counts = counts.get(name, torch.zeros(shape, dtype=torch.int64))
                total = sum_exactly(world, own_counts.clone())
            else:
                total = totals[name]
            found[name] = total if shape else float(total)
        return found


def _add_floats(
    engine: Engine, batches: int, of_batches: Mapping[int, Mapping[str, Tensor]], shapes: Mapping[str, list[int]]
) -> dict[str, Tensor]:
    """The sums over all batches of all ranks, added in their order."""
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    table = torch.zeros(batches, sum(sizes), dtype=torch.float64)
    if shapes:
        for number, values in of_batches.items():
            table[number] = torch.cat([values[name] for name in shapes])
    sum_exactly(engine.world, table)
    total = torch.zeros(sum(sizes), dtype=torch.float64)
    for row in table:
        total += row
    parts = zip(shapes.items(), total.split(sizes), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}
