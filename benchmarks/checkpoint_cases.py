"""What the ranks of `checkpoint_matrix.py` do: train, save and train on; or read what others saved, and train on."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import parity_cases as cases
from benchmarks.support.resuming import resume
from phalanx.configs.schema import digest
from phalanx.dist.checkpoint.retention import Retention
from phalanx.dist.checkpoint.save import CheckpointInfo, save
from phalanx.dist.checkpoint.saver import Saver
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine

if TYPE_CHECKING:
    from phalanx.configs.schema import RunConfig

MODEL, MICRO_BATCHES = "cnn", 4
SAVED_AT, ENDS_AT = 2, 4
BUFFER = "colours"  # of the model, besides BatchNorm's statistics
Report = dict[str, Any]


def _engine(world: World, settings: "RunConfig", optimizer: str) -> Engine:
    model, make = cases.build(MODEL), cases.maker(optimizer)
    model.register_buffer(BUFFER, torch.arange(7.0) / 3)
    return Engine(model, lambda named: make(named.values()), lambda step: cases.LEARNING_RATE, settings, world)


def _warm_up(engine: Engine, step: int) -> None:
    share = engine.warm_up_share
    engine.warm_up(cases.losses, [cases.micro_batch(step, v) for v in range(share.first, share.last)])


def _train(engine: Engine, steps: Iterable[int]) -> float:
    """Returns the loss of the last step."""
    for step in steps:
        batch = [cases.micro_batch(step, v) for v in range(engine.mine.first, engine.mine.last)]
        for part in engine.micro_batches(step, batch, [cases.weights(b) for b in batch]):
            engine.backward(cases.losses(engine.model, part))
        engine.step()
    return sum(engine.settle()[-1].losses.values())


def _report(engine: Engine, loss: float) -> Report:
    """This rank's part of everything, as `parity_cases.assembled` takes it, and the scalars."""
    entries = [(e.name, e.shape, e.start, e.tensor.detach().cpu().numpy().copy(), e.replicated) for e in engine.entries()]
    return {"loss": loss, "entries": entries, "scalars": engine.scalars()}


def _spoil(engine: Engine) -> None:
    """Nothing of what is read may be there before."""
    with torch.no_grad():
        for entry in engine.entries():
            entry.tensor.fill_(float("nan") if entry.tensor.is_floating_point() else -1)
    engine.after_load()


def _save_at_once(engine: Engine, folder: Path, progress: CheckpointInfo) -> Callable[[], object]:
    save(engine.world, folder, engine.entries(), progress, smallest_file=0)  # every rank a file of its own
    return lambda: None


def _save_in_background(engine: Engine, folder: Path, progress: CheckpointInfo) -> Callable[[], object]:
    saver = Saver(engine.world, folder, Retention(keep=1), asynchronous=True)
    saver.start(engine.entries(), progress)
    return saver.wait


# SGD's checkpoints are written at once, a file a rank; AdamW's while training continues, in one file, as they are small.
SAVE = {"sgd": _save_at_once, "adamw": _save_in_background}


def saved(world: World, settings: "RunConfig", optimizer: str, folder: Path) -> dict[int, Report]:
    """Trains, saves and continues: the unbroken run.

    Returns:
        After the step that is saved, and after the last: `loss`, `entries` and `scalars`.
    """
    engine = _engine(world, settings, optimizer)
    _warm_up(engine, 0)
    reports = {SAVED_AT: _report(engine, _train(engine, range(SAVED_AT)))}
    samples = SAVED_AT * settings.train.global_batch
    progress = CheckpointInfo(SAVED_AT, samples, settings.dist.strategy, digest(settings), engine.scalars())
    wait = SAVE.get(optimizer, _save_at_once)(engine, folder, progress)
    reports[ENDS_AT] = _report(engine, _train(engine, range(SAVED_AT, ENDS_AT)))
    wait()
    return reports


def resumed(world: World, settings: "RunConfig", optimizer: str, folder: Path) -> dict[int, Report]:
    """Reads the newest checkpoint into an engine that held other numbers, and continues.

    Returns:
        As `saved` does; and once it is read also `weights`, those that the forward uses, whole.
    """
    engine = _engine(world, settings, optimizer)
    _spoil(engine)
    stored = resume(world, engine, folder)
    _warm_up(engine, stored.step)
    loaded = _report(engine, 0.0)
    with engine.evaluation() as model:
        loaded["weights"] = {n: p.detach().cpu().numpy().reshape(-1).copy() for n, p in model.named_parameters()}
    return {SAVED_AT: loaded, ENDS_AT: _report(engine, _train(engine, range(stored.step, ENDS_AT)))}
