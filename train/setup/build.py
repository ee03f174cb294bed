"""From a configuration to a run's parts: data, task, model, engine, in one visible order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from phalanx.configs import places
from phalanx.configs.errors import UserError
from phalanx.configs.own_code import is_own, load_own
from phalanx.configs.schema import ModelConfig, RunConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.data.labels_in_range import LabelsInRange
from phalanx.data.loading import order
from phalanx.data.loading.loader import EvaluationLoader, Loader, Samples
from phalanx.data.open import open_split
from phalanx.data.same_classes import by_name
from phalanx.data.transforms.batchwise import batchwise
from phalanx.data.transforms.mosaic_loading import mosaics
from phalanx.data.transforms.pipeline import Statistics, pipeline
from phalanx.dist.checkpoint.dcp import folder
from phalanx.dist.comm.collectives import run_and_agree
from phalanx.dist.comm.process_group import World
from phalanx.dist.engine import Engine
from phalanx.dist.microbatches.randomness import key, seed_everything
from phalanx.dist.microbatches.sampler import Share, Stream, share
from phalanx.models import frozen_statistics, pretrained, registry, weights
from phalanx.models.detection import frozen
from phalanx.models.initialisation import initialise
from phalanx.models.options import choices
from phalanx.train import tasks
from phalanx.train.optim import optimizers, plateau, schedules, swa
from phalanx.train.optim.patterns import match_pattern
from phalanx.train.optim.plateau import Plateau
from phalanx.train.setup.probe import probe
from phalanx.train.tasks import DataInfo, Task, phases_of
from phalanx.train.tasks.own_detector import has_background


@dataclass(frozen=True)
class LocalParts:
    """The parts that each rank makes by itself.

    Attributes:
        loaded: the pretrained weights that the model starts from, if any.
        last_step: the run's number of steps.
    """

    training: Dataset
    validation: Dataset
    data_info: DataInfo
    task: Task
    model: nn.Module
    loaded: weights.Loaded | None
    last_step: int


@dataclass(frozen=True)
class Parts:
    """The parts of a run, on all ranks."""

    training: Dataset
    validation: Dataset
    data_info: DataInfo
    task: Task
    engine: Engine
    loaded: weights.Loaded | None
    loader: Loader
    evaluation: EvaluationLoader
    stream: Stream
    last_step: int
    plateau: Plateau | None = None
    warnings: Sequence[str] = ()


def length(config: RunConfig, samples: int) -> int:
    """The run's number of steps: `train.steps`, else that of `train.epochs`, rounded up."""
    if config.train.steps is not None:
        return config.train.steps
    assert config.train.epochs is not None
    return max(1, math.ceil(config.train.epochs * samples / config.train.global_batch))


def steps_of_epoch(config: RunConfig, samples: int) -> float:
    return samples / config.train.global_batch


def build_local(config: RunConfig, resuming: bool = False) -> LocalParts:
    """Opens the data, builds task and model, equal on every rank.

    Args:
        resuming: whether a checkpoint will fill the model, so that pretrained weights are not loaded.

    Raises:
        UserError: if the data or the weights cannot be used.
    """
    training, validation = (open_split(config.data, split, config.seed) for split in ("train", "val"))
    validation = by_name(validation, training, config.data.val_split)
    known = data_info(training, config)
    task, last_step = tasks.build(config, known), length(config, len(training))
    model = network(config, known)
    # A resumed run has its own weights; the file that it started from may be gone.
    loaded = None if resuming else _start_from(config.model, model)
    return LocalParts(training, validation, known, task, model, loaded, last_step)


def data_info(training: Dataset, config: RunConfig) -> DataInfo:
    """The metadata of the training data for the task and the network. Classes are counted only if the loss needs it."""
    counted = "balanced" in (config.loss.class_weights, config.loss.pos_weight)
    counts = dataset_info.class_counts(training) if counted else None
    size, kind = config.data.image_size, dataset_info.kind(training)
    return DataInfo(
        classes=tuple(training.classes),
        channels=training.channels,
        kind=kind,
        samples=len(training),
        class_counts=None if counts is None else tuple(counts),
        image_size=(size, size) if isinstance(size, int) else size,
        ignored=dataset_info.ignored(training),
        numbers=torch.as_tensor(training[0]["target"]).numel() if kind == "regression" else 0,
    )


def build_distributed(config: RunConfig, made: LocalParts, world: World) -> Parts:
    """Wraps the parts for all ranks. All ranks call together."""
    workers, stream = config.data.workers, order.stream(config, made.training)
    wanted = statistics(config, made.training.channels)
    augmented, stored = pipeline(config.data, made.training, "train", wanted), _in_range(config, made.training)
    training = Samples(stored, augmented, config.seed, mosaics(config, stored, augmented), config.data.repeats > 1)
    seen = pipeline(config.data, made.validation, "val", wanted, config.evaluate)
    validation = Samples(_in_range(config, made.validation), seen, config.seed)
    device = world.device if config.data.transform_on == "device" else None
    pin, changed = world.device.type == "cuda", batchwise(config, made.training)
    mine = share(config.micro_batches, world.ranks.rank, world.ranks.world)
    loader = Loader(training, stream, mine, workers, pin, changed, device)
    evaluation = EvaluationLoader(
        validation, len(made.validation), config.train.micro_batch, world.ranks.rank, world.ranks.world, workers, pin, device
    )
    optimizers.check_strategy(config)
    warnings = []
    names = [name for name in (config.model.name, config.model.backbone) if name is not None]
    if any(registry.get(name).is_unknown for name in names):
        # The same micro-batch on every rank, so that what is found does not depend on their number.
        (example,) = loader.examples(0, Share(0, 1, config.micro_batches))
        warnings = run_and_agree(world, lambda: probe(made.model, phases_of(made.task), example))
    phases = phases_of(made.task)
    optim = schedules.scaled(config.optim, config.train.global_batch)
    rates = schedules.rates(optim, config.schedule, made.last_step, steps_of_epoch(config, len(made.training)))
    lowered = plateau.of_run(config)
    engine = Engine(
        made.model,
        optimizers.optimizer_factory(
            optim, made.model, config.schedule.warmup_bias_lr is not None, phases, fused=config.dist.reduce == "fast"
        ),
        rates if lowered is None else lowered.of(rates),
        config,
        world,
        phases,
        swa.share_of_new(config, made.last_step, steps_of_epoch(config, len(made.training)), len(phases)),
        len(made.training),
    )
    return Parts(
        training=made.training,
        validation=made.validation,
        data_info=made.data_info,
        task=made.task,
        engine=engine,
        loaded=made.loaded,
        loader=loader,
        evaluation=evaluation,
        stream=stream,
        last_step=made.last_step,
        plateau=lowered,
        warnings=warnings,
    )


def _in_range(config: RunConfig, dataset: Dataset) -> Dataset:
    """A user's own dataset, refusing labels that the network lacks; a task of their own may give labels another meaning."""
    if not is_own(config.data.name) or is_own(config.task.name):
        return dataset
    background = int(has_background(config))
    classes = max(len(dataset.classes), (config.model.num_classes or 0) - background)
    ignored = dataset_info.ignored(dataset)
    return LabelsInRange(dataset, classes, config.data.ignore_index if ignored is None else ignored)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freezes parameters, by shell patterns of their names.

    Raises:
        UserError: if a pattern matches none, or none is left to train.
    """
    names = dict(model.named_parameters())
    for pattern in patterns:
        for name in match_pattern("model.freeze", pattern, names):
            names[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in names.values()):
        raise UserError(f"model.freeze={', '.join(patterns)}: this freezes every parameter. Leave some to be trained.")


def network(config: RunConfig, data_info: DataInfo) -> nn.Module:
    """The network, with weights drawn from the seed."""
    seed_everything(key(config.seed, "initialisation"))
    classes = data_info.numbers or len(data_info.classes)
    try:
        spec = registry.get(config.model.name)
        _register_own(config.model)
        model = spec.build(
            num_classes=config.model.num_classes or classes + has_background(config),
            in_channels=config.model.in_channels or data_info.channels,
            **choices(config.model.model_dump(), config.data.image_size),
        )
        eps = spec.published_eps(config.model.weights)
    except (registry.UnknownModel, registry.BadOption) as error:
        raise UserError(str(error)) from None
    if eps is not None:
        frozen.set_eps(model, eps)
    if config.model.init is not None:
        initialise(model, config.model.init)
    freeze(model, config.model.freeze)
    layers = frozen_statistics.norms(model)
    for pattern in config.model.freeze_statistics:
        if not layers:
            raise UserError(f"model.freeze_statistics={pattern}: {config.model.name} has no BatchNorm. Remove it.", shared=True)
        frozen_statistics.freeze(model, match_pattern("model.freeze_statistics", pattern, layers))
    return model


def _register_own(config: ModelConfig) -> None:
    """Makes the user's own network and backbone known to the registry."""
    for place, name in (("model.name", config.name), ("model.backbone", config.backbone)):
        if name is not None and is_own(name):
            registry.register(name, load_own(place, name))


def statistics(config: RunConfig, channels: int) -> Statistics | None:
    """The images' normalisation for pretrained weights, if the network starts from such."""
    model = config.model
    backbone = registry.get(model.name).backbone_name(model.backbone)
    if model.backbone_weights is not None and backbone is not None:
        return registry.get(backbone).statistics(model.backbone_weights, channels)
    return registry.get(model.name).statistics(model.weights, channels)


def _start_from(config: ModelConfig, model: nn.Module) -> weights.Loaded | None:
    """Loads pretrained weights into the network or its backbone, from a published name, a file or a folder, if given."""
    backbone = registry.get(config.name).backbone_name(config.backbone)
    try:
        if config.weights is not None:
            return _load(model, config.name, config.weights, fresh=config.fresh, prefix=config.prefix)
        if config.backbone_weights is not None and backbone is not None:
            part: Any = model.get_submodule(getattr(model, "backbone_name", "backbone"))
            return _load(
                part,
                backbone,
                config.backbone_weights,
                unused=[f"{name}.*" for name in getattr(part, "left_out", ())],
                prefix=config.prefix,
            )
    except (weights.BadWeights, registry.BadOption) as error:
        said = str(error)
        raise UserError(said if config.weights else said.replace("model.weights", "model.backbone_weights")) from None
    return None


def _load(
    model: nn.Module, name: str, given: str, fresh: Sequence[str] = (), unused: Sequence[str] = (), prefix: str | None = None
) -> weights.Loaded:
    path = pretrained.file(name, given) if registry.is_pretrained(given) else places.found(given)
    # A folder of torch.distributed.checkpoint is for dist/: models/ knows nothing of ranks.
    return weights.load(model, path, folder.open_folder(path) if folder.is_one(path) else None, fresh, unused, prefix)
