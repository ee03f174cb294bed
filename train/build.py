"""From a configuration to its parts: data, task, model, engine. One visible order, nothing else."""

import difflib
import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from phalanx.configs.errors import UserError
from phalanx.configs.schema import RunConfig
from phalanx.data.augment import pipeline
from phalanx.data.dataset import Dataset, open_split
from phalanx.data.loader import EvaluationLoader, Loader, Samples
from phalanx.dist.checkpoint import foreign
from phalanx.dist.engine import Engine
from phalanx.dist.process_group import World
from phalanx.dist.randomness import key, seed_everything
from phalanx.dist.sampler import Stream
from phalanx.models import registry, weights
from phalanx.train import optimizers, schedules, tasks
from phalanx.train.tasks import DataFacts, Task


@dataclass(frozen=True)
class Ingredients:
    """What can be made on each rank by itself.

    Attributes:
        loaded: which weights of others the model starts from, if any.
        last_step: the run's number of steps.
    """

    training: Dataset
    validation: Dataset
    task: Task
    model: nn.Module
    loaded: weights.Loaded | None
    last_step: int


@dataclass(frozen=True)
class Parts:
    """What a run is made of, on all ranks."""

    task: Task
    engine: Engine
    loaded: weights.Loaded | None
    loader: Loader
    evaluation: EvaluationLoader
    stream: Stream
    last_step: int


def length(config: RunConfig, samples: int) -> int:
    """The run's number of steps: `train.steps`, else so many that `train.epochs` are whole."""
    if config.train.steps is not None:
        return config.train.steps
    assert config.train.epochs is not None
    return max(1, math.ceil(config.train.epochs * samples / config.train.global_batch))


def gather(config: RunConfig, goes_on: bool = False) -> Ingredients:
    """Opens the data, builds task and model, the same on every rank.

    Args:
        goes_on: whether a checkpoint will fill the model, so that it starts from nobody's weights.

    Raises:
        UserError: where the data or the weights cannot be used.
    """
    training, validation = open_split(config.data, "train"), open_split(config.data, "val")
    facts = DataFacts(tuple(training.classes), training.channels)
    task, last_step = tasks.build(config, facts), length(config, len(training))
    model = _model(config, facts)
    # A run that goes on has its own weights; the file that it once started from may be gone.
    loaded = None if goes_on else _start_from(config.model.weights, model)
    return Ingredients(training, validation, task, model, loaded, last_step)


def assemble(config: RunConfig, made: Ingredients, world: World) -> Parts:
    """Spreads them over the ranks. All ranks call together."""
    engine = Engine(
        made.model,
        lambda parameters: optimizers.make(config.optim, parameters),
        schedules.learning_rate(config.optim, config.schedule, made.last_step),
        config,
        world,
    )
    count, workers = len(made.training), config.data.workers
    stream = Stream(count, config.seed, config.train.global_batch, config.train.micro_batch)
    training = Samples(made.training, pipeline(config.data, made.training, "train"), config.seed)
    validation = Samples(made.validation, pipeline(config.data, made.validation, "val"), config.seed)
    loader = Loader(training, stream, engine.mine, workers, pin=world.device.type == "cuda")
    evaluation = EvaluationLoader(
        validation, len(made.validation), config.train.micro_batch, world.ranks.rank, world.ranks.world, workers
    )
    return Parts(made.task, engine, made.loaded, loader, evaluation, stream, made.last_step)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Takes parameters out of the training, by shell patterns of their names.

    Raises:
        UserError: where a pattern names none, or none is left.
    """
    names = dict(model.named_parameters())
    for pattern in patterns:
        meant = fnmatch.filter(names, pattern)
        if not meant:
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.4) or [next(iter(names))]
            raise UserError(f"model.freeze={pattern}: no parameter has such a name. There is, for example, {near[0]}.")
        for name in meant:
            names[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise UserError(f"model.freeze={', '.join(patterns)}: this freezes every parameter. Leave some to be trained.")


def _model(config: RunConfig, facts: DataFacts) -> nn.Module:
    """The network, its weights drawn from the seed alone."""
    seed_everything(key(config.seed, "initialisation"))
    model = registry.build(
        config.model.name,
        num_classes=config.model.num_classes or len(facts.classes),
        in_channels=config.model.in_channels or facts.channels,
        stem=config.model.stem,
        dropout=config.model.dropout,
    )
    freeze(model, config.model.freeze)
    return model


def _start_from(given: str | None, model: nn.Module) -> weights.Loaded | None:
    """Fills the network from a file or folder of somebody's, if one was given."""
    if given is None:
        return None
    path = Path(given)
    try:
        # A folder of torch.distributed.checkpoint is for dist/: models/ knows nothing of ranks.
        return weights.load(model, path, foreign.open_folder(path) if foreign.is_one(path) else None)
    except weights.BadWeights as error:
        raise UserError(str(error)) from None
