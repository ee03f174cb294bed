"""Evaluation over all ranks: each sample counted once, and the same figures however many ranks there are."""

import torch

from phalanx.data.loader import EvaluationLoader
from phalanx.dist import heartbeat
from phalanx.dist.collectives import gather_json, sum_exactly
from phalanx.dist.engine import Engine
from phalanx.train.tasks import Task


def evaluate(engine: Engine, task: Task, loader: EvaluationLoader) -> dict[str, float]:
    """The task's metrics over the validation split. All ranks call together.

    The sums of each numbered batch come from one rank, and are added in the order of the batches: no figure depends on
    which rank ran which batch.
    """
    measured: dict[int, list[torch.Tensor]] = {}
    names: list[str] = []
    with engine.evaluation() as model, torch.inference_mode():
        for number, batch in loader:
            heartbeat.beat("evaluation")
            sums = task.measure(model, engine.to_device(batch))
            names = sorted(sums)
            measured[number] = [sums[name].detach().to("cpu", torch.float64, non_blocking=True) for name in names]
    heartbeat.beat("metrics")
    if engine.world.device.type == "cuda":
        torch.cuda.synchronize(engine.world.device)
    names = next(found for found in gather_json(engine.world, names) if found)  # a rank may have had no batch
    table = torch.zeros(loader.batches, len(names), dtype=torch.float64)
    for number, values in measured.items():
        table[number] = torch.stack(values)
    sum_exactly(engine.world, table)
    totals = [sum(column) for column in table.T.tolist()]
    return task.metrics(dict(zip(names, totals, strict=True)))
