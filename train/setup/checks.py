"""Everything about a run that can be checked before ranks are started: no torch, nothing written."""

import importlib.util
import os
import re

from phalanx.configs.errors import UserError
from phalanx.configs.launchers import filling
from phalanx.configs.messages import nearest, synonyms
from phalanx.configs.optimizer_table import TIMM
from phalanx.configs.own_code import check as check_own
from phalanx.configs.own_code import is_own, refuse_half
from phalanx.configs.schema import RunConfig
from phalanx.configs.sections.section import divisors
from phalanx.configs.strategies import STRATEGIES
from phalanx.configs.tasks import TASKS
from phalanx.configs.text.encodings import brief
from phalanx.data import open as data_open
from phalanx.dist.storage.run_directory import RunDirectory, is_writable
from phalanx.models import registry
from phalanx.models.options import choices
from phalanx.train import tasks


def check_world(config: RunConfig, world: int) -> None:
    """Checks that a step can be shared by `world` ranks.

    Raises:
        UserError: naming both numbers, and the largest possible micro-batch.
    """
    strategy = config.dist.strategy
    if STRATEGIES[strategy].one_rank and world > 1:
        raise UserError(f"dist.strategy={strategy} runs on one rank, but {world} were asked for. Set dist.strategy=ddp.")
    for problem, steps in filling.gradient_accumulation(config):
        if steps * world != config.micro_batches:
            raise UserError(
                f"{problem}, but on {world} ranks a rank runs {config.micro_batches / world:g} of the {config.micro_batches} "
                "micro-batches of a step. Remove it: Phalanx computes it from train.global_batch and train.micro_batch."
            )
    if world <= config.micro_batches:
        return
    batch, micro = config.train.global_batch, config.train.micro_batch
    fits = [m for m in divisors(batch) if batch // m >= world]
    other = (
        f"or set train.micro_batch={max(fits)} (another experiment: BatchNorm would see {max(fits)} samples instead of {micro})"
        if fits
        else f"or raise train.global_batch to at least {world} (another experiment)"
    )
    raise UserError(
        f"a step has {config.micro_batches} micro-batches (train.global_batch {batch} / train.micro_batch {micro}), "
        f"but {world} ranks were asked for. Run on up to {config.micro_batches} ranks, {other}."
    )


def check_model(config: RunConfig) -> None:
    """Checks that the network and its weights exist.

    Raises:
        UserError: with what to change.
    """
    model = config.model
    if model.backbone is not None and (other := synonyms.ON_ANY_BACKBONE.get(model.name)):
        raise UserError(
            f"model.backbone={model.backbone}: {model.name} is torchvision's, whose backbone is fixed. "
            f"Set model.name={other}, which takes any, or remove model.backbone."
        )
    for key, name in (("model.name", model.name), ("model.backbone", model.backbone)):
        if name is not None and is_own(name):
            check_own(key, name)
        elif name is not None and ":" in name and not name.startswith(("timm:", "torchvision:")):
            refuse_half(key, name)
            raise UserError(
                f"{key}={brief(name)}: your own class is named by file and class, ./file.py:Class, or by an installed module "
                "and class, package.module:Class. `phalanx models` lists the networks that are built in."
            )
    try:
        spec = registry.get(model.name)
        spec.check(**choices(model.model_dump(), config.data.image_size))
        if model.weights is not None and registry.is_pretrained(model.weights):
            spec.weights_version(model.weights)
    except registry.UnknownModel as error:
        refuse_half("model.name", model.name)
        meant = nearest.network(model.name, known=registry.MODELS)
        said = f"there is no network {model.name!r}.{meant}" if meant else error
        raise UserError(f"model.name={model.name}: {said}") from None
    except registry.UnknownBackbone as error:
        meant = nearest.network(str(model.backbone), "model.backbone", registry.names("backbone"))
        raise UserError(
            f"model.backbone={model.backbone}: there is no such backbone.{meant}" if meant else str(error)
        ) from None
    except registry.BadOption as error:
        raise UserError(str(error)) from None
    for key, given in (("model.weights", model.weights), ("model.backbone_weights", model.backbone_weights)):
        _check_source(key, given, model.name)
    if model.fresh and model.weights is None:
        raise UserError(
            f"model.fresh={', '.join(model.fresh)}: without model.weights every parameter starts fresh. Remove the key."
        )
    if model.prefix is not None and model.weights is None and model.backbone_weights is None:
        raise UserError(
            f"model.prefix={model.prefix}: there are no model.weights whose names could begin with it. Remove the key."
        )
    _check_backbone_weights(config)
    _check_frozen(config)
    _check_kind(config)


def _check_source(key: str, given: str | None, network: str) -> None:
    """Whether a word or a URL is in the place of weights: only what a library publishes is fetched, by the library's name."""
    if given is None or registry.is_pretrained(given) or os.path.exists(given):
        return
    library = "timm" if network.startswith("timm/") else "torchvision"
    if re.match(r"[A-Za-z][\w+.-]*://|hf[-_]hub:", given):
        raise UserError(f"{key}={brief(given)}: nothing is fetched from there. Fetch the file, and set {key}=FILE.")
    if given.lower() in ("imagenet", "pretrained", "default", "true", "yes", "auto", "coco") or given.startswith("timm/"):
        raise UserError(f"{key}={given}: there is no such file or folder. Did you mean {key}={library}?")
    if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*_V\d", given):
        raise UserError(f"{key}={given}: there is no such file or folder. Did you mean {key}=torchvision/{given}?")


def _check_backbone_weights(config: RunConfig) -> None:
    model, given = config.model, config.model.backbone_weights
    if given is None:
        return
    backbone = registry.get(model.name).backbone_name(model.backbone)
    if model.weights is not None:
        raise UserError(f"model.backbone_weights={given}: model.weights={model.weights} fills the backbone too. Remove one.")
    if backbone is None:
        raise UserError(f"model.backbone_weights={given}: {model.name} has no backbone. Remove the key, or set model.weights.")
    try:
        if registry.is_pretrained(given):
            registry.get(backbone).weights_version(given)
    except registry.BadOption as error:
        raise UserError(str(error).replace("model.weights", "model.backbone_weights")) from None


def _check_frozen(config: RunConfig) -> None:
    """Refuses frozen BatchNorm without weights: its constants would be meaningless."""
    model = config.model
    starts_fresh = model.weights is None and model.backbone_weights is None
    if starts_fresh and registry.get(model.name).has_frozen_batchnorm(model.options):
        raise UserError(
            f"model.name={model.name}: the BatchNorm of its backbone is frozen, but without weights there is nothing to keep. "
            "Set model.backbone_weights=torchvision, or model.options.norm=batch."
        )


def _check_kind(config: RunConfig) -> None:
    """Checks that a network's output fits the task: logits of the image, logits of every pixel, or objects."""
    name, task = config.model.name, config.task.name
    if task not in TASKS:
        return  # a user's own task
    wanted, kind = TASKS[task].network, registry.get(name).kind
    if is_own(name):
        return  # seen from its first output
    if wanted == kind:
        _check_masks(name, task)
        return
    fitting = [other for other, spec in TASKS.items() if spec.network == kind]
    if wanted == "backbone":
        remedy = f"Set task.name={' or '.join(fitting)}, or another network of `phalanx models --kind backbone`"
    else:
        backbone = f" model.backbone={name}" if kind == "backbone" else ""
        remedy = f"Set model.name={TASKS[task].example}{backbone}, or another of `phalanx models --kind {wanted}`"
    raise UserError(f"model.name={name}: this is a network for {fitting[0]}, but task.name={task}. {remedy}.")


def _check_masks(name: str, task: str) -> None:
    """Checks that a detector predicts masks if and only if the task learns them."""
    learns, predicts = TASKS[task].masks, registry.get(name).masks
    if learns and not predicts:
        example = TASKS[task].example
        raise UserError(f"model.name={name}: this network predicts no masks, but task.name={task}. Set model.name={example}.")
    if predicts and not learns:
        other = next(other for other, spec in TASKS.items() if spec.masks)
        raise UserError(
            f"model.name={name}: task.name={task} has no masks to learn. "
            f"Set task.name={other}, or model.name={TASKS[task].example}."
        )


def check_recipe(config: RunConfig) -> None:
    """Checks the recipe by itself, without data and machine; `phalanx config` does so too.

    Raises:
        UserError: with what to change.
    """
    check_model(config)
    tasks.check(config.task.name)
    for key, name in (
        ("optim.name", config.optim.name),
        ("schedule.name", config.schedule.name),
        ("loss.name", config.loss.name),
        *(("data.augment.own", each) for each in config.data.augment.own),
        *(("evaluate.metrics", each) for each in config.evaluate.metrics),
        *(("track.own", each) for each in config.track.own),
    ):
        if is_own(name):
            check_own(key, name)
    if not is_own(config.optim.name) and (config.optim.options or config.optim.name.startswith(TIMM)):
        from phalanx.train.optim import constructing  # imports torch, which `phalanx config` otherwise does without

        constructing.check(config.optim)
    if config.task.options and not is_own(config.task.name):
        raise UserError(f"task.options are for a task of your own; {config.task.name} takes none. Remove them.")
    data_open.check_name(config.data)
    if data_open.reads_images(config.data) and "image_size" not in config.data.model_fields_set:
        raise UserError(
            f"data.image_size is not set, and images of data.name={config.data.name} are of any size. Set it, such as "
            "data.image_size=224, or [480, 640] for height and width."
        )


def check(config: RunConfig, world: int) -> None:
    """Checks that the run can start on `world` ranks, as far as known beforehand.

    Raises:
        UserError: with what to change.
    """
    check_recipe(config)
    data_open.check(config.data)
    if config.track.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "track.tensorboard=true needs the package tensorboard. Install it (pip install tensorboard), or set false."
        )
    check_world(config, world)
    run = RunDirectory.of(config)
    if run.path.exists() and not run.path.is_dir():
        raise UserError(f"{run.path}: this is a file, not a run directory. Set name=ANOTHER or runs=FOLDER.")
    if not run.refuse_another_experiment(config) and not is_writable(run.path):
        raise UserError(f"{run.path}: no files can be made there. Set runs=FOLDER to a writable folder.")
