"""Every key of a recipe and of a cluster file: its type, default, meaning and tag.

A tag says what a key belongs to. *experiment*: it changes the result, so it is part of the digest. *hardware*: where
and how the same experiment runs. *bookkeeping*: logging, checkpoints, tracking, and how long the run is.

Defaults of experiment keys never change: a digest leaves out the keys that stand at their default, so that a new key
does not make old runs strangers.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from phalanx.configs import evaluate
from phalanx.configs.data import DataConfig
from phalanx.configs.evaluate import EvaluateConfig
from phalanx.configs.section import REQUIRED, RunName, Section, Tag, Whole, bookkeeping, experiment, hardware
from phalanx.configs.slurm import SlurmConfig


class TaskConfig(Section):
    name: str = experiment("classification", "what is learnt: classification, segmentation, or your own as ./file.py:Class")
    options: dict[str, Any] = experiment({}, "keyword arguments for a task of your own")


def _number(value: Any) -> Any:
    """Text as a number: YAML's scalars are text, which `Literal` does not turn into numbers."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


OutputStride = Annotated[Literal[8, 16, 32], BeforeValidator(_number)]


class ModelConfig(Section):
    name: str = experiment(REQUIRED, "the network, as torchvision spells it, such as resnet18 (`phalanx models`), or timm/NAME")
    weights: str | None = experiment(
        None,
        "weights to start from: a file or folder, nothing in it is unpickled; or torchvision, torchvision/IMAGENET1K_V1, timm",
    )
    fresh: list[str] = experiment(
        [], "parameters that start fresh though model.weights has them, by patterns of their names, such as fc.*"
    )
    backbone: str | None = experiment(None, "backbone of a network that takes one; the network's own if not given")
    backbone_weights: str | None = experiment(
        None, "weights of a classification network that the backbone starts from: what model.weights takes"
    )
    options: dict[str, Any] = experiment({}, "options that only this network has, such as {multi_grid: [1, 2, 4]} of deeplabv3")
    num_classes: Whole | None = experiment(None, "outputs; the data's number of classes if not given", ge=1)
    in_channels: Whole | None = experiment(None, "channels of the image; the data's if not given", ge=1)
    stem: Literal["standard", "small"] = experiment(
        "standard", "first layers of a ResNet: the paper's 7x7 with stride 4 in all, or a 3x3 with stride 1 for small images"
    )
    dropout: float | None = experiment(None, "dropout before the last linear layer; the network's own if not given", ge=0, lt=1)
    drop_path: float | None = experiment(
        None, "stochastic depth of the last block, rising from 0 (arXiv:1603.09382); the network's own if not given", ge=0, lt=1
    )
    output_stride: OutputStride | None = experiment(
        None, "stride of the deepest features, kept by dilation; the network's own if not given"
    )
    freeze: list[str] = experiment([], "parameters that are not trained, by patterns of their names, such as layer1.*")


def _class_weights(value: Any) -> Any:
    """The word `balanced`, or numbers."""
    if value == "balanced":
        return value
    try:
        numbers = [float(number) for number in value] if isinstance(value, list | tuple) else []
    except (TypeError, ValueError):
        numbers = []
    if not numbers or min(numbers) < 0 or max(numbers) == 0:
        raise ValueError("balanced, or a list of numbers, one a class")
    return numbers


ClassWeights = Annotated[Literal["balanced"] | list[float], BeforeValidator(_class_weights)]
Factor = Annotated[float, Field(gt=0)]
PIXEL_LOSSES = ("cross_entropy", "bce", "focal", "dice")


def _pixel_losses(value: dict[str, float]) -> dict[str, float]:
    if unknown := set(value) - set(PIXEL_LOSSES):
        raise ValueError(f"{', '.join(sorted(unknown))} is none of {', '.join(PIXEL_LOSSES)}, each with what it counts")
    return value


AddedLosses = Annotated[dict[str, Factor], AfterValidator(_pixel_losses)]


class LossConfig(Section):
    name: Literal["cross_entropy", "bce", "focal", "dice", "mse", "l1"] = experiment(
        "cross_entropy",
        "the loss; bce and focal take several labels an image too; mse and l1 compare probabilities (not of pixels); "
        "dice is for segmentation",
    )
    add: AddedLosses = experiment(
        {}, "segmentation: further losses that are added, and what each counts beside loss.name, such as {dice: 1.0}"
    )
    label_smoothing: float = experiment(0.0, "share of the target spread over all classes (arXiv:1512.00567)", ge=0, lt=1)
    class_weights: ClassWeights | None = experiment(
        None, "weight of each class: numbers in the order of the classes, or balanced: inversely to their frequency"
    )
    pos_weight: ClassWeights | None = experiment(
        None, "bce: weight of positive labels of each class: numbers, or balanced: negatives over positives"
    )
    focal_gamma: float = experiment(2.0, "focal: exponent that weakens easy samples (arXiv:1708.02002)", ge=0)
    focal_alpha: float | None = experiment(None, "focal: weight of positives, 1 - alpha of negatives", ge=0, le=1)
    dice_per_class: bool = experiment(
        True, "dice: the mean over the classes that an image has; false: of the second of two classes alone (arXiv:1606.04797)"
    )
    dice_smooth: float = experiment(1.0, "dice: what is added to numerator and denominator", ge=0)
    ohem_threshold: float | None = experiment(
        None,
        "segmentation: cross_entropy counts only hard pixels, whose class has a probability below this, such as 0.7 "
        "(arXiv:1604.03540); all if null",
        gt=0,
        le=1,
    )
    ohem_keep: float = experiment(0.1, "ohem_threshold: least share of an image's pixels that count, the hardest", ge=0, le=1)
    auxiliary: float | None = experiment(None, "weight of auxiliary heads' losses; the network's own if not given", ge=0)

    @property
    def names(self) -> tuple[str, ...]:
        """All losses that are used."""
        return (self.name, *self.add)


def _rising(value: list[float]) -> list[float]:
    if value != sorted(set(value)) or not all(0 < share < 1 for share in value):
        raise ValueError("rising numbers between 0 and 1, such as [0.33, 0.67]")
    return value


Milestones = Annotated[list[float], AfterValidator(_rising)]


class OptimConfig(Section):
    name: Literal["sgd", "adamw"] = experiment("sgd", "optimizer")
    lr: float = experiment(REQUIRED, "learning rate at the schedule's peak", gt=0)
    weight_decay: float = experiment(0.0, "weight decay (decoupled for adamw)", ge=0)
    momentum: float = experiment(0.9, "momentum of sgd", ge=0, lt=1)
    nesterov: bool = experiment(False, "Nesterov momentum for sgd")
    betas: tuple[float, float] = experiment((0.9, 0.999), "decay of adamw's two moments")
    eps: float = experiment(1e-8, "added to adamw's denominator", gt=0)
    no_decay: list[str] = experiment(
        [], "parameters without weight decay: patterns of their names, or the words norm (of normalisation layers) and bias"
    )
    lr_factors: dict[str, Factor] = experiment(
        {}, "learning rate as a multiple of lr, by patterns of parameters' names, such as {backbone.*: 0.1}; the last that fits"
    )


class ScheduleConfig(Section):
    name: Literal["constant", "cosine", "polynomial", "step"] = experiment("cosine", "learning rate after the warm-up")
    warmup_steps: Whole = experiment(0, "steps of linear warm-up from lr / warmup_steps", ge=0)
    power: float = experiment(0.9, "exponent of the polynomial schedule", gt=0)
    milestones: Milestones = experiment(
        [], "step: where the rate is multiplied by gamma, as shares of the run, such as [0.33, 0.67]"
    )
    gamma: float = experiment(0.1, "step: factor at each milestone", gt=0, lt=1)
    final: float = experiment(0.0, "learning rate at the last step, as a share of lr", ge=0, le=1)


class TrainConfig(Section):
    global_batch: Whole = experiment(REQUIRED, "samples a step, over all ranks", ge=1)
    micro_batch: Whole = experiment(
        REQUIRED, "samples of one forward and backward on one device, so what BatchNorm sees; divides global_batch", ge=1
    )
    steps: Whole | None = bookkeeping(None, "length of the run in steps; wins over epochs", ge=1)
    epochs: float | None = bookkeeping(None, "length of the run in epochs", gt=0)
    clip_norm: float | None = experiment(None, "largest norm of the whole gradient", gt=0)
    ema: float | None = experiment(
        None, "decay a step, such as 0.999, of a moving average of the weights, which evaluation uses; off if null", gt=0, lt=1
    )
    eval_every: Whole | None = bookkeeping(None, "steps between evaluations; there is always one at the end", ge=1)
    patience: Whole | None = bookkeeping(
        None, "end early after so many evaluations in a row without a better checkpoint.best; never if null", ge=1
    )
    log_every: Whole = bookkeeping(10, "steps between lines of the log", ge=1)
    deterministic: bool = hardware(False, "deterministic kernels: on GPUs needed for equality to the last bit, and slower")


def _group(value: int | str) -> int | str:
    """`all` and `off` are words; anything else is a number."""
    text = str(value).strip()
    if text in ("off", "all"):
        return text
    if not re.fullmatch(r"\d+", text) or int(text) < 2:
        raise ValueError("off, all, or a whole number of micro-batches of 2 or more")
    return int(text)


Group = Annotated[int | str, AfterValidator(_group)]


class DistConfig(Section):
    strategy: Literal["single", "ddp", "fsdp", "hsdp", "zero1", "zero2", "zero3"] = hardware(
        "ddp",
        "how ranks share the model: ddp holds all of it on each; fsdp (FSDP2) shards it; hsdp shards in a node and copies "
        "across; zero1, zero2, zero3 (DeepSpeed) shard the optimizer, the gradients too, the weights too",
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16", "fp64"] = experiment(
        "fp32",
        "number format of arithmetic; weights are float32 but for fp64. bf16 and fp16 by autocast, fp16 with loss scaling",
    )
    loss_scale: float = experiment(65536.0, "fp16: what the loss is multiplied by at the start", ge=1)
    loss_scale_window: Whole = experiment(2000, "fp16: steps without overflow after which the loss scale doubles", ge=1)
    sync_bn: Group = experiment(
        "off", "micro-batches whose samples a BatchNorm statistic sees: off, one; all, the whole step; N, so many in a row"
    )
    reduce: Literal["fast", "exact"] = hardware(
        "fast",
        "how gradients are summed: in whatever order is fastest, or by one fixed tree: the same bits on any number of ranks",
    )
    exchange: Literal["step", "micro_batch"] = hardware(
        "step",
        "when fsdp and hsdp exchange gradients: once a step, which keeps a whole gradient on each rank, or after every "
        "micro-batch, which keeps a share",
    )
    shard_ranks: Whole | None = hardware(
        None, "hsdp: ranks that share one copy of the weights; those of a node if not set", ge=1
    )
    reshard_after_forward: bool = hardware(
        True, "fsdp, hsdp: give back the gathered weights of a block after its forward, and gather them again for its backward"
    )
    gather: Literal["full", "half"] = hardware(
        "full",
        "fsdp, hsdp with bf16 or fp16: gather weights in float32, as all strategies compute, or in half, in half the bytes, "
        "which rounds parameters outside of convolutions and linear layers too",
    )
    offload: bool = hardware(
        False, "keep in CPU memory: the optimizer (zero1, zero2, zero3), or weights, gradients and optimizer (fsdp, hsdp)"
    )
    deepspeed: str | None = hardware(None, "DeepSpeed JSON file; fills keys of the recipe that are not set, and is passed on")
    channels_last: bool = hardware(False, "keep images and convolutions channels last in memory, which is faster on GPUs")
    compile: bool = hardware(False, "torch.compile the model")
    device: Literal["auto", "cpu", "cuda"] = hardware("auto", "auto takes GPUs where there are any")
    threads: Whole | None = hardware(
        None, "CPU threads a rank; if not given OMP_NUM_THREADS, else 1, as torchrun and accelerate launch choose", ge=1
    )
    interface: str | None = hardware(
        None, "network interface over which ranks on several nodes talk, such as ib0; the one that srun used if not given"
    )
    hang_s: float = hardware(
        900.0,
        "seconds without any progress after which the run counts as hung, and ends naming the rank; 0: never. "
        "Smaller than timeout_s, which would blame whoever waits",
        ge=0,
    )
    timeout_s: float = hardware(1800.0, "seconds after which a collective that does not end is an error", gt=0)


class CheckpointConfig(Section):
    every_steps: Whole | None = bookkeeping(None, "steps between checkpoints; there is always one at the end", ge=1)
    keep: Whole = bookkeeping(3, "newest checkpoints to keep", ge=1)
    keep_every: Whole | None = bookkeeping(None, "keep every checkpoint whose step is a multiple of this, too", ge=1)
    best: str | None = bookkeeping(
        None, "metric, such as val/top1, whose best checkpoint is kept, and saved as soon as it is reached", pattern=r"^val/.+"
    )
    best_mode: Literal["auto", "max", "min"] = bookkeeping("auto", "which value is best; auto: min for losses, else max")
    asynchronous: bool = bookkeeping(True, "write checkpoints in the background, from a copy of the step's state")


class TrackConfig(Section):
    wandb: Literal["online", "offline", "off"] = bookkeeping("off", "Weights & Biases: online falls back to offline")
    project: str = bookkeeping("phalanx", "W&B project")
    tensorboard: bool = bookkeeping(False, "write TensorBoard events to tensorboard/ in the run directory")


class RunConfig(Section):
    """One recipe and one cluster file, merged: everything about a run."""

    name: RunName = bookkeeping(REQUIRED, "the run's name; its directory is RUNS/NAME. The first file's name if not given")
    seed: Whole = experiment(0, "every random number is a function of it", ge=0, lt=2**63)
    runs: str = bookkeeping("runs", "folder of the run directories")
    task: TaskConfig = Field(TaskConfig(), description="what is learnt")
    data: DataConfig = Field(REQUIRED, description="what it is learnt from")
    model: ModelConfig = Field(REQUIRED, description="the network")
    loss: LossConfig = Field(LossConfig(), description="what is minimised")
    optim: OptimConfig = Field(REQUIRED, description="how it is minimised")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="the learning rate over time")
    train: TrainConfig = Field(REQUIRED, description="batches and length")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="how a network that segments is asked in evaluation")
    dist: DistConfig = Field(DistConfig(), description="ranks and precision")
    slurm: SlurmConfig = Field(SlurmConfig(), description="what `phalanx submit` asks SLURM for")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="what is kept, and when")
    track: TrackConfig = Field(TrackConfig(), description="where figures go besides the run directory")

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step, `V` in the design: the most ranks that can share it."""
        return self.train.global_batch // self.train.micro_batch


class Key:
    """One key of the schema, for `phalanx config --keys` and for messages."""

    def __init__(self, name: str, tag: Tag, kind: str, default: Any, required: bool, meaning: str):
        self.name, self.tag, self.kind, self.default, self.required, self.meaning = name, tag, kind, default, required, meaning


def _kind(annotation: Any) -> str:
    """The type of a key as a person writes it: `int or null`, `off | all`."""
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
    if text and not getattr(annotation, "__args__", None):
        return {"Whole": "int", "NoneType": "null"}.get(text, text)
    arguments = getattr(annotation, "__args__", ())
    if getattr(annotation, "__origin__", None) is Literal:
        return " | ".join(str(a) for a in arguments)
    if hasattr(annotation, "__metadata__"):  # Annotated[int, ...]
        return _kind(annotation.__origin__)
    if type(None) in arguments:
        return " or ".join(_kind(a) for a in arguments)
    return re.sub(r"\btyping\.", "", str(annotation))


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
    """The keys that make the experiment."""
    values = flat(config)
    return {key.name: values[key.name] for key in keys() if key.tag == "experiment"}


def digest(config: RunConfig) -> str:
    """A name for the experiment: the same on any hardware, another when a key tagged *experiment* differs."""
    defaults = {key.name: json.loads(json.dumps(key.default)) for key in keys() if not key.required}
    telling = {k: v for k, v in experiment_keys(config).items() if k not in defaults or defaults[k] != v}
    return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()[:16]


def contradictions(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Pairs of key and sentence for values that are each allowed but do not go together."""
    train = config.train
    if train.global_batch % train.micro_batch:
        near = [m for m in range(1, train.global_batch + 1) if train.global_batch % m == 0]
        nearest = min(near, key=lambda m: abs(m - train.micro_batch))
        multiple = max(1, round(train.global_batch / train.micro_batch)) * train.micro_batch
        yield (
            "train.micro_batch",
            f"train.global_batch={train.global_batch} is no multiple of train.micro_batch={train.micro_batch}. "
            f"Set train.micro_batch={nearest}, or train.global_batch={multiple}.",
        )
    if train.steps is None and train.epochs is None:
        yield "train.steps", "neither train.steps nor train.epochs is given. Set one of them."
    yield from _contradictions_of_ranks(config)
    yield from _contradictions_of_data(config)
    if config.schedule.name == "step" and not config.schedule.milestones:
        yield "schedule.milestones", "schedule.name=step needs schedule.milestones. Set them, such as [0.33, 0.67]."
    if config.optim.nesterov and not config.optim.momentum:
        yield "optim.nesterov", "Nesterov momentum needs optim.momentum above 0. Set one, or optim.nesterov=false."


def _contradictions_of_data(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Those of the section `data`, and of what follows it: losses, and what ends a run early."""
    data = config.data
    if data.fold is not None and data.val_fraction is not None:
        yield "data.fold", "data.fold and data.val_fraction are two ways to split. Remove one."
    if data.augment.area is not None and data.augment.scale is not None:
        yield "data.augment.scale", "data.augment.area and data.augment.scale are two ways to crop. Remove one."
    if data.augment.randaugment and data.augment.trivialaugment:
        yield "data.augment.trivialaugment", "RandAugment and TrivialAugment are two ways to choose operations. Remove one."
    if data.augment.area is not None and data.augment.area[1] > 1:
        yield "data.augment.area", f"data.augment.area={list(data.augment.area)} holds shares of the image: at most 1."
    if (data.mean is None) != (data.std is None):
        yield "data.mean", "data.mean and data.std go together. Set both, or neither."
    if data.std is not None and not all(value > 0 for value in data.std):
        yield "data.std", f"data.std={data.std}: every number must be above zero."
    yield from _contradictions_of_loss(config)
    yield from evaluate.contradictions(config.evaluate, config.task.name)
    if config.train.patience is not None and config.checkpoint.best is None:
        yield "train.patience", "train.patience needs the metric to watch. Set checkpoint.best, such as val/top1."


def _contradictions_of_loss(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Those of the section `loss`, and of losses with tasks."""
    loss, task = config.loss, config.task.name
    if loss.pos_weight is not None and "bce" not in loss.names:
        yield "loss.pos_weight", f"loss.pos_weight is for loss.name=bce, not {loss.name}. Remove it, or set bce."
    if loss.focal_alpha is not None and "focal" not in loss.names:
        yield "loss.focal_alpha", f"loss.focal_alpha is for loss.name=focal, not {loss.name}. Remove it, or set focal."
    if loss.label_smoothing and "cross_entropy" not in loss.names:
        yield "loss.label_smoothing", f"loss.label_smoothing is for cross_entropy, not {loss.name}. Set it to 0."
    if loss.ohem_threshold is not None and "cross_entropy" not in loss.names:
        yield "loss.ohem_threshold", f"loss.ohem_threshold is for cross_entropy, not {loss.name}. Remove it."
    if loss.name in loss.add:
        yield "loss.add", f"loss.add has {loss.name}, which is loss.name already, and counts 1. Remove it."
    if task == "segmentation" and loss.name not in PIXEL_LOSSES:
        yield "loss.name", f"loss.name={loss.name}: segmentation takes {', '.join(PIXEL_LOSSES)}. Set one of them."
    if task != "classification":
        return
    if loss.name == "dice":
        yield "loss.name", "loss.name=dice is of pixels, for task.name=segmentation. Set cross_entropy, bce, focal, mse or l1."
    for key in ("add", "ohem_threshold"):
        if value := getattr(loss, key):
            yield f"loss.{key}", f"loss.{key}={value} is of pixels, for task.name=segmentation. Remove it."


ZERO = ("zero1", "zero2", "zero3")
SHARDED = ("fsdp", "hsdp")


def _contradictions_of_ranks(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Those of the section `dist`."""
    dist = config.dist
    if isinstance(dist.sync_bn, int) and config.micro_batches % dist.sync_bn:
        fits = [n for n in range(2, config.micro_batches + 1) if config.micro_batches % n == 0]
        allowed = ", ".join(map(str, fits)) or "off"
        yield (
            "dist.sync_bn",
            f"dist.sync_bn={dist.sync_bn} does not divide the {config.micro_batches} micro-batches of a step "
            f"(train.global_batch / train.micro_batch). Set one of: {allowed}.",
        )
    if dist.reduce == "exact" and dist.sync_bn != "off":
        yield (
            "dist.reduce",
            f"dist.reduce=exact does not go with dist.sync_bn={dist.sync_bn}: joint statistics round as the ranks divide them. "
            "Set dist.reduce=fast, or dist.sync_bn=off.",
        )
    if dist.reduce == "exact" and dist.strategy not in ("single", "ddp", "fsdp"):
        yield (
            "dist.reduce",
            f"dist.reduce=exact runs under single, ddp and fsdp, not {dist.strategy}, which sums in an order of its own. "
            "Set dist.strategy=ddp, or dist.reduce=fast.",
        )
    if dist.precision == "fp64" and dist.strategy in ZERO:
        yield "dist.precision", f"DeepSpeed ({dist.strategy}) has no fp64. Set dist.strategy=fsdp, or dist.precision=fp32."
    if dist.shard_ranks is not None and dist.strategy != "hsdp":
        yield "dist.shard_ranks", f"dist.shard_ranks is for hsdp, not {dist.strategy}. Remove it, or set dist.strategy=hsdp."
    if dist.offload and dist.strategy not in (*ZERO, *SHARDED):
        yield "dist.offload", f"dist.offload=true needs fsdp, hsdp or zero1 to zero3, not {dist.strategy}. Set one, or false."
    if dist.gather == "half" and (dist.strategy not in SHARDED or dist.precision not in ("bf16", "fp16")):
        yield "dist.gather", "dist.gather=half needs fsdp or hsdp, and bf16 or fp16. Set dist.gather=full."
    if dist.deepspeed is not None and dist.strategy not in ZERO:
        yield (
            "dist.deepspeed",
            f"dist.deepspeed={dist.deepspeed} is for zero1 to zero3, not {dist.strategy}. Remove it, or set one of them.",
        )
