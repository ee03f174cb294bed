"""Every key of a recipe and of a cluster file: its type, default, meaning and tag.

A key's tag is its category. *experiment*: it changes the result, so it is part of the digest. *hardware*: where
and how the same experiment runs. *bookkeeping*: logging, checkpoints, tracking, and how long the run is.

Defaults of experiment keys never change: a digest leaves out the keys with their default values, so that a new key
does not invalidate old runs.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field

from phalanx.configs.sections import dist, evaluate, loss, optim
from phalanx.configs.sections.data import DataConfig
from phalanx.configs.sections.dist import DistConfig
from phalanx.configs.sections.evaluate import EvaluateConfig
from phalanx.configs.sections.loss import LossConfig
from phalanx.configs.sections.optim import OptimConfig, ScheduleConfig
from phalanx.configs.sections.section import REQUIRED, Int, RunName, Section, Tag, bookkeeping, divisors, experiment, hardware
from phalanx.configs.sections.slurm import SlurmConfig
from phalanx.configs.tasks import TASKS


class TaskConfig(Section):
    name: str = experiment(
        "classification",
        f"the task: {', '.join(TASKS)}, or your own as ./file.py:Class",
    )
    options: dict[str, Any] = experiment({}, "keyword arguments for a task of your own")


def _number(value: Any) -> Any:
    """Text as a number: YAML's scalars are text, which `Literal` does not convert."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,4}\s*", value) else value


OutputStride = Annotated[Literal[8, 16, 32], BeforeValidator(_number)]


class ModelConfig(Section):
    name: str = experiment(REQUIRED, "the network, as torchvision spells it, such as resnet18 (`phalanx models`), or timm/NAME")
    weights: str | None = experiment(
        None,
        "pretrained weights to start from: a file or folder, never unpickled; or torchvision, torchvision/IMAGENET1K_V1, timm",
    )
    fresh: list[str] = experiment(
        [], "parameters that are initialised afresh although model.weights has them, by patterns of their names, such as fc.*"
    )
    prefix: str | None = experiment(
        None,
        "prefix of the network's names in a file of weights that holds several networks, such as teacher.",
    )
    backbone: str | None = experiment(None, "backbone of a network that takes one; the network's default if null")
    backbone_weights: str | None = experiment(
        None, "weights of a classification network for the backbone to start from, as model.weights takes them"
    )
    options: dict[str, Any] = experiment(
        {}, "options that only this network has, such as {multi_grid: [1, 2, 4]} for deeplabv3"
    )
    num_classes: Int | None = experiment(None, "number of outputs; the data's number of classes if null", ge=1, le=10**8)
    in_channels: Int | None = experiment(None, "channels of the image; the data's if null", ge=1, le=10**5)
    stem: Literal["standard", "small", "resnet_c", "resnet_d"] = experiment(
        "standard",
        "first layers of a ResNet: the paper's 7x7 with a total stride of 4; a 3x3 with stride 1 for small images; ResNet-C's "
        "three 3x3 (deep stem), as in published DeepLab and PSPNet; or ResNet-D's, which also averages in its shortcuts "
        "(arXiv:1812.01187)",
    )
    dropout: float | None = experiment(None, "dropout before the last linear layer; the network's default if null", ge=0, lt=1)
    drop_path: float | None = experiment(
        None, "stochastic depth of the last block, rising from 0 (arXiv:1603.09382); the network's default if null", ge=0, lt=1
    )
    output_stride: OutputStride | None = experiment(
        None, "stride of the deepest features, by dilation; the network's default if null"
    )
    freeze: list[str] = experiment([], "parameters that are not trained, by patterns of their names, such as layer1.*")
    freeze_statistics: list[str] = experiment(
        [],
        "BatchNorm layers whose running statistics are used and kept while training, by patterns of their names, such as "
        "backbone.*; their weights are trained unless model.freeze says otherwise",
    )
    init: Literal["xavier_uniform", "xavier_normal", "he_uniform", "he_normal", "orthogonal", "truncated_normal"] | None = (
        experiment(None, "initialisation of linear layers and convolutions, before pretrained weights; null: the network's own")
    )


class TrainConfig(Section):
    global_batch: Int = experiment(REQUIRED, "samples per step, over all ranks", ge=1, le=10**9)
    micro_batch: Int = experiment(
        REQUIRED,
        "samples per forward and backward on one device, which BatchNorm sees; divides global_batch. A rank accumulates "
        "the gradients of its micro-batches",
        ge=1,
    )
    steps: Int | None = bookkeeping(None, "length of the run in steps; takes precedence over epochs", ge=1)
    epochs: float | None = bookkeeping(None, "length of the run in epochs", gt=0, le=1e9)
    clip_norm: float | None = experiment(None, "maximum norm of the gradient (gradient clipping); off if null", gt=0)
    clip_value: float | None = experiment(None, "largest absolute value of an element of the gradient; off if null", gt=0)
    ema: float | None = experiment(
        None,
        "decay per step, such as 0.999, of an exponential moving average (EMA) of the weights, used by evaluation; off if null",
        gt=0,
        lt=1,
    )
    ema_ramp: Int | None = experiment(
        None,
        "steps over which train.ema rises from 0: ema * (1 - exp(-step / ema_ramp)); BatchNorm's statistics are then averaged "
        "with the weights. If null, as in older runs: the full decay from the first step, for the weights only",
        ge=1,
    )
    ema_start: Int | None = experiment(
        None,
        "steps up to which train.ema copies the weights, such as those of the warm-up, as in torchvision's references; "
        "BatchNorm's statistics are averaged with the weights",
        ge=0,
    )
    ema_every: Int | None = experiment(
        None,
        "train.ema is updated after an epoch's first step and every so many steps after it, such as 32 in torchvision's "
        "references; after every step if null",
        ge=1,
    )
    swa_start: float | None = experiment(
        None,
        "stochastic weight averaging (SWA): from this share of the run on, such as 0.75, evaluation uses the mean of the "
        "weights; off if null",
        gt=0,
        lt=1,
    )
    swa_every: Int | None = experiment(None, "steps between the weights that train.swa_start averages; null: an epoch", ge=1)
    swa_batches: Int = experiment(
        20,
        "steps whose data computes BatchNorm's statistics for the averaged weights again, before each evaluation and save",
        ge=1,
    )
    eval_every: Int | None = bookkeeping(None, "steps between evaluations; there is always one at the end", ge=1)
    eval_last_epochs: Int | None = bookkeeping(
        None, "evaluate also after each of the last so many epochs, such as 16 in YOLOX", ge=1
    )
    patience: Int | None = bookkeeping(
        None, "early stopping: end after so many evaluations in a row without a better checkpoint.best; never if null", ge=1
    )
    log_every: Int = bookkeeping(10, "steps between lines of the log", ge=1)
    activation_checkpointing: Literal["off", "blocks"] | Annotated[int, Field(ge=1)] = hardware(
        "off",
        "compute activations again in the backward, to save memory: of all blocks, or of every N-th (gradient checkpointing)",
    )
    deterministic: bool = hardware(
        False, "deterministic kernels, which are slower; needed on GPUs for equality to the last bit"
    )

    @property
    def averages(self) -> bool:
        """Whether evaluation uses an average of the weights."""
        return self.ema is not None or self.swa_start is not None


def _metric(value: str) -> str:
    if not re.fullmatch(r"val/.+", value):
        raise ValueError("a metric of the validation, such as val/top1, val/miou, val/ap50 or val/loss")
    return value


class CheckpointConfig(Section):
    every_steps: Int | None = bookkeeping(None, "steps between checkpoints; there is always one at the end", ge=1)
    every_minutes: float | None = bookkeeping(
        10.0, "minutes from a checkpoint to the next one, in addition to every_steps; never by time if null", gt=0
    )
    keep: Int = bookkeeping(3, "number of newest checkpoints to keep", ge=1)
    keep_every: Int | None = bookkeeping(None, "also keep every checkpoint whose step is a multiple of this", ge=1)
    best: Annotated[str, AfterValidator(_metric)] | None = bookkeeping(
        None, "metric, such as val/top1, whose best checkpoint is saved as soon as it is reached, and kept"
    )
    best_mode: Literal["auto", "max", "min"] = bookkeeping(
        "auto", "which value is best; auto: min for losses, max for other metrics"
    )
    asynchronous: bool = bookkeeping(True, "write checkpoints in the background, from a copy of the step's state")


class TrackConfig(Section):
    wandb: Literal["online", "offline", "off"] = bookkeeping("off", "Weights & Biases: online falls back to offline")
    project: str = bookkeeping("phalanx", "W&B project")
    own: list[str] = bookkeeping(
        [], "trackers of your own, as ./file.py:Class each, called with the run directory, the recipe and the step"
    )
    tensorboard: bool = bookkeeping(False, "write TensorBoard events to tensorboard/ in the run directory")
    report: bool = bookkeeping(True, "write report.html into the run directory when the run is done")
    pictures: Int = bookkeeping(
        4, "validation samples on which each evaluation draws the predictions, for the report; none if 0", ge=0, le=16
    )


class RunConfig(Section):
    """One recipe and one cluster file, merged: everything about a run."""

    name: RunName = bookkeeping(REQUIRED, "the run's name; its directory is RUNS/NAME. The name of the first file if not set")
    seed: Int = experiment(0, "the seed of every random number", ge=0, lt=2**63)
    runs: str = bookkeeping("runs", "folder of the run directories")
    task: TaskConfig = Field(TaskConfig(), description="what is learnt")
    data: DataConfig = Field(REQUIRED, description="what it is learnt from")
    model: ModelConfig = Field(REQUIRED, description="the network")
    loss: LossConfig = Field(LossConfig(), description="what is minimised")
    optim: OptimConfig = Field(REQUIRED, description="how it is minimised")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="the learning rate over time")
    train: TrainConfig = Field(REQUIRED, description="batches and length")
    evaluate: EvaluateConfig = Field(
        EvaluateConfig(), description="evaluation of segmentation and detection, with test-time augmentation"
    )
    dist: DistConfig = Field(DistConfig(), description="ranks and precision")
    slurm: SlurmConfig = Field(SlurmConfig(), description="what `phalanx submit` asks SLURM for")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="what is kept, and when")
    track: TrackConfig = Field(TrackConfig(), description="where metrics go besides the run directory")

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step, `V` in the design: the most ranks that can share it."""
        return self.train.global_batch // self.train.micro_batch

    @property
    def sizes_vary(self) -> bool:
        """Whether images come to the network in many sizes."""
        evaluated = self.evaluate.size == "original" or self.evaluate.fit == "short_side"
        return self.data.fit == "short_side" or bool(self.data.augment.sizes) or evaluated


class Key:
    """One key of the schema, for `phalanx config --keys` and for messages."""

    def __init__(self, name: str, tag: Tag, kind: str, default: Any, required: bool, meaning: str):
        self.name, self.tag, self.kind, self.default, self.required, self.meaning = name, tag, kind, default, required, meaning


def _kind(annotation: Any) -> str:
    """The readable type of a key: `int or null`, `off | all`."""
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
    if text and not getattr(annotation, "__args__", None):
        return {"NoneType": "null"}.get(text, text)
    if annotation is Any:
        return "any"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return " | ".join(str(a) for a in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_kind(a) for a in arguments)
    return f"{origin.__name__}[{', '.join(map(_kind, arguments))}]"


def keys(section: type[Section] = RunConfig, prefix: str = "") -> Iterator[Key]:
    """All keys in the schema's order."""
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from keys(annotation, f"{prefix}{name}.")
            continue
        extra = field.json_schema_extra
        assert isinstance(extra, dict), f"{prefix}{name} has no tag"
        default = None if field.is_required() else field.default
        yield Key(f"{prefix}{name}", extra["tag"], _kind(annotation), default, field.is_required(), field.description or "")  # type: ignore[arg-type]


def flat(config: RunConfig) -> dict[str, Any]:
    """The configuration as `{"train.global_batch": 64, ...}`, JSON values."""
    nested = config.model_dump(mode="json")

    def at(key: str) -> Any:
        value: Any = nested
        for part in key.split("."):
            value = value[part]
        return value

    return {key.name: at(key.name) for key in keys()}


def experiment_keys(config: RunConfig) -> dict[str, Any]:
    """The keys of the experiment."""
    values = flat(config)
    return {key.name: values[key.name] for key in keys() if key.tag == "experiment"}


def digest(config: RunConfig) -> str:
    """The id of the experiment: the same on any hardware, different if a key tagged *experiment* differs."""
    defaults = {key.name: json.loads(json.dumps(key.default)) for key in keys() if not key.required}
    telling = {k: v for k, v in experiment_keys(config).items() if k not in defaults or defaults[k] != v}
    if config.data.on_error == "fail":  # then a bound ends a run, and does not change its result
        telling.pop("data.max_pixels", None)
    return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()[:16]


def _clips(config: RunConfig, key: str) -> bool:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name) is not None


def _against_swa(config: RunConfig) -> Iterator[tuple[str, str]]:
    if config.train.ema is not None:
        yield "train.swa_start", "train.ema and train.swa_start are two averages of the weights. Keep one."


def _against_recomputing(config: RunConfig) -> Iterator[tuple[str, str]]:
    if config.dist.compile:
        yield (
            "train.activation_checkpointing",
            "dist.compile and train.activation_checkpointing cannot be combined. Set dist.compile=false, or "
            "train.activation_checkpointing=off.",
        )


def contradictions(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for values that are allowed separately but not together."""
    train = config.train
    if train.global_batch % train.micro_batch:
        nearest = min(divisors(train.global_batch), key=lambda m: abs(m - train.micro_batch))
        multiple = max(1, round(train.global_batch / train.micro_batch)) * train.micro_batch
        yield (
            "train.micro_batch",
            f"train.global_batch={train.global_batch} is not a multiple of train.micro_batch={train.micro_batch}. "
            f"Set train.micro_batch={nearest}, or train.global_batch={multiple}.",
        )
    ways = [key for key in ("train.clip_norm", "train.clip_value", "optim.agc") if _clips(config, key)]
    if len(ways) > 1:
        yield ways[1], f"{' and '.join(ways)} are ways to clip gradients. Keep one."
    if train.activation_checkpointing != "off":
        yield from _against_recomputing(config)
    if train.steps is None and train.epochs is None:
        yield "train.steps", "neither train.steps nor train.epochs is given. Set one of them."
    yield from dist.contradictions(config.dist, config.micro_batches)
    yield from _contradictions_of_data(config)
    if config.schedule.name == "plateau" and config.schedule.metric is None and config.checkpoint.best is None:
        yield (
            "schedule.metric",
            "schedule.name=plateau watches a metric. Set schedule.metric, such as val/loss, or checkpoint.best.",
        )
    yield from optim.contradictions(config.optim, config.schedule)


def _contradictions_of_data(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Contradictions of the section `data`, and of losses, EMA and early stopping."""
    data = config.data
    if data.fold is not None and data.val_fraction is not None:
        yield "data.fold", "data.fold and data.val_fraction are two ways to split. Remove one."
    if data.augment.area is not None and data.augment.scale is not None:
        yield "data.augment.scale", "data.augment.area and data.augment.scale are two ways to crop. Remove one."
    ways = [name for name in ("autoaugment", "randaugment", "trivialaugment", "timm") if getattr(data.augment, name)]
    if len(ways) > 1:
        yield f"data.augment.{ways[1]}", f"data.augment.{' and '.join(ways)} are ways to choose operations. Keep one."
    if data.repeats > config.train.global_batch:
        yield (
            "data.repeats",
            f"data.repeats={data.repeats} is more than train.global_batch={config.train.global_batch}. Set fewer.",
        )
    for key in ("data.aspect_groups", "data.augment.mosaic"):
        if data.repeats > 1 and (data.aspect_groups if key == "data.aspect_groups" else data.augment.mosaic):
            yield "data.repeats", f"data.repeats and {key} choose samples in ways that exclude each other. Remove one."
    if data.augment.area is not None and data.augment.area[1] > 1:
        yield "data.augment.area", f"data.augment.area={list(data.augment.area)} holds shares of the image: at most 1."
    if (data.mean is None) != (data.std is None):
        yield "data.mean", "data.mean and data.std go together. Set both, or neither."
    if data.std is not None and not all(value > 0 for value in data.std):
        yield "data.std", f"data.std={data.std}: every number must be above zero."
    yield from loss.contradictions(config.loss, config.task.name)
    yield from evaluate.contradictions(config.evaluate, config.task.name)
    if config.train.swa_start is not None:
        yield from _against_swa(config)
    for name in ("ema_ramp", "ema_start", "ema_every"):
        if getattr(config.train, name) is not None and config.train.ema is None:
            yield f"train.{name}", f"train.{name} needs an average. Set train.ema, such as 0.999, or remove train.{name}."
    if config.train.ema_ramp is not None and config.train.ema_start is not None:
        yield "train.ema_start", "train.ema_ramp and train.ema_start are two ways to begin an average. Remove one."
    if config.train.patience is not None and config.checkpoint.best is None:
        yield "train.patience", "train.patience needs the metric to watch. Set checkpoint.best, such as val/top1."
