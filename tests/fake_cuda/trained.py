"""One run on the pretended device: the engine, the loader, an asynchronous save read back, an evaluation, predictions."""

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.fake_cuda.cases import STEPS, recipe
from benchmarks.support.fake_cuda.ledger import LEDGER, Place
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist import determinism
from phalanx.dist.checkpoint import manifest
from phalanx.dist.checkpoint.entries import Entry
from phalanx.dist.checkpoint.restore import restore
from phalanx.dist.checkpoint.retention import Retention
from phalanx.dist.checkpoint.save import CheckpointInfo
from phalanx.dist.checkpoint.saver import Saver
from phalanx.dist.comm.process_group import World, join
from phalanx.dist.processes.environment import Ranks
from phalanx.train.evaluation.evaluate import evaluate
from phalanx.train.evaluation.predict import Predictor
from phalanx.train.setup.build import LocalParts, Parts, build_distributed, build_local

_SAVED_AFTER, _IMAGES = 2, 4


def run(task: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Trains, saves, reads back, evaluates, predicts; returns what was found, as JSON.

    Args:
        task: `task.name`.
        overrides: of the recipe.
    """
    LEDGER.clear()
    with tempfile.TemporaryDirectory() as folder:
        config = _config(task, overrides, Path(folder))
        determinism.apply(config.train.deterministic)
        world = join(Ranks(), config.dist, Path(folder), threads=1)
        made = build_local(config)
        parts = build_distributed(config, made, world)
        found = _train(config, parts, Path(folder))
        with LEDGER.counting():
            metrics = evaluate(parts.engine, parts.task, parts.evaluation)
        found["evaluation"] = LEDGER.syncs.total()
        found["places in evaluation"] = _listed(LEDGER.syncs)
        found["metrics"] = {name: float(value) for name, value in metrics.items()}
        found["predictions"] = _predict(config, made, parts, world)
    return found | {"faults": sorted(set(LEDGER.faults))}


def _config(task: str, overrides: Sequence[str], folder: Path) -> RunConfig:
    (folder / "recipe.yaml").write_text("{}\n")
    return load([str(folder / "recipe.yaml")], [*recipe(task, _IMAGES), f"runs={folder}", *overrides])


def _train(config: RunConfig, parts: Parts, folder: Path) -> dict[str, Any]:
    engine, task, loader = parts.engine, parts.task, parts.loader
    (folder / "checkpoints").mkdir()
    saver = Saver(engine.world, folder / "checkpoints", Retention(3, None, None, "auto"), asynchronous=True)
    engine.warm_up(task.losses, loader.examples(0, engine.warm_up_share))
    figures, steps, held = [], [], list[Entry]()
    for batch in loader.from_step(0, STEPS):
        LEDGER.syncs.clear()
        LEDGER.waits.clear()
        with LEDGER.counting():
            weights = [task.weights(micro_batch) for micro_batch in batch.micro_batches]
            for micro_batch in engine.micro_batches(batch.step, batch.micro_batches, weights):
                engine.backward(task.losses(engine.model, micro_batch))
            saver.wait_for_copy()
            figures += engine.step()
        steps.append({"syncs": _listed(LEDGER.syncs), "total": LEDGER.syncs.total(), "waits": LEDGER.waits.total()})
        if batch.step + 1 == _SAVED_AFTER:
            held = [replace(entry, tensor=entry.tensor.detach().cpu().clone()) for entry in engine.entries()]
            saver.start(engine.entries(), CheckpointInfo(_SAVED_AFTER, 8, "ddp", "run", engine.scalars(), {}))
    figures += engine.settle()
    most = max(steps, key=lambda step: step["total"])
    on_the_host = [name for name, tensor in engine.unwrapped.state_dict().items() if not tensor.is_cuda]
    return {
        "losses": [{name: round(value, 4) for name, value in step.losses.items()} for step in figures],
        "finite": all(math.isfinite(value) for step in figures for value in step.losses.values()),
        "step": most["total"],
        "waits": max(step["waits"] for step in steps),
        "places in a step": most["syncs"],
        "pageable": _listed(LEDGER.pageable),
        "pinned here": _listed(LEDGER.pinned),
        "on the host": on_the_host,
        "read back": len(held),
        "wrong": _wrong(saver, held),
    }


def _wrong(saver: Saver, held: Sequence[Entry]) -> list[str]:
    """Tensors of the checkpoint that are not what the step had."""
    (saved,) = saver.wait()
    if saved.path is None:
        return [f"no checkpoint: {saved.problem}"]
    read = [replace(entry, tensor=torch.zeros(entry.tensor.shape, dtype=entry.tensor.dtype)) for entry in held]
    restore(saved.path, manifest.read(saved.path), read)
    return [one.name for one, other in zip(held, read, strict=True) if not torch.equal(one.tensor, other.tensor)]


def _predict(config: RunConfig, made: LocalParts, parts: Parts, world: World) -> int:
    """How many images were predicted."""
    prepare = pipeline(config.data, made.validation, "val", None, config.evaluate)
    samples = []
    for number in range(2):
        image = made.validation[number]["image"]
        samples.append(prepare({"image": image, "size": torch.tensor(image.shape[-2:]), "id": number}))
    task: Any = parts.task
    with parts.engine.evaluation() as network, torch.inference_mode():
        asked = Predictor(
            task, network, prepare, "rgb", config.train.micro_batch, world.device, parts.engine.dtype, config.data.max_pixels
        )
        return len(list(asked.ask(samples)))


def _listed(counts: Counter[Place]) -> dict[str, int]:
    return {f"{what}: {place}": count for (what, place), count in counts.most_common()}
