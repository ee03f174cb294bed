"""Every network by name: what it is, and how it is built. An explicit table; torch is imported when one is built."""

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from phalanx.models import timm_networks
from phalanx.models.backbones.table import BACKBONES
from phalanx.models.detection.table import DETECTION
from phalanx.models.detection.yolo.table import YOLO
from phalanx.models.entry import ModelSpec
from phalanx.models.options import OPTIONAL, BadOption, Options, square
from phalanx.models.segmentation.table import SEGMENTATION

if TYPE_CHECKING:
    from torch import Tensor, nn

    from phalanx.models.backbones.pyramid import Pyramid

__all__ = [
    "MODELS",
    "BadOption",
    "UnknownBackbone",
    "UnknownModel",
    "backbone_of",
    "build",
    "check",
    "check_weights",
    "choices",
    "features",
    "freezes",
    "frozen_eps",
    "has_background",
    "has_masks",
    "is_pretrained",
    "kind",
    "known_weights",
    "names",
    "statistics",
]

MODELS: dict[str, ModelSpec] = {**BACKBONES, **SEGMENTATION, **DETECTION, **YOLO}

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Of weights that want images normalised in another way, as torchvision documents it; the last want pixels of 0 to 255.
_STATISTICS = {
    ("googlenet", "IMAGENET1K_V1"): _HALVES,
    ("inception_v3", "IMAGENET1K_V1"): _HALVES,
    ("vgg16", "IMAGENET1K_FEATURES"): ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
}


class UnknownModel(ValueError):
    """There is no network of that name; the message lists the nearest."""


class UnknownBackbone(BadOption):
    """There is no backbone of that name; the message lists the nearest."""


def names(of: str | None = None) -> list[str]:
    """Names of all networks, or of those of a kind: `backbone`, `segmentation`, `detection`. timm's are not among them."""
    return [name for name, entry in MODELS.items() if of in (None, entry.kind)]


def kind(name: str) -> str:
    """What a network is: `backbone`, which classifies images, `segmentation` or `detection`.

    Args:
        name: of a network that there is.
    """
    return "backbone" if timm_networks.is_one(name) else MODELS[name].kind


def has_background(name: str) -> bool:
    """Whether a network's `num_classes` counts what is no object, as torchvision's detectors do."""
    return name in MODELS and MODELS[name].background


def has_masks(name: str) -> bool:
    """Whether a network for detection tells the mask of each object."""
    return name in MODELS and MODELS[name].masks


def freezes(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a network's backbone has frozen BatchNorm, by its own options or by default."""
    own = MODELS[name].own if name in MODELS else {}
    return "norm" in own and options.get("norm", own["norm"].default) == "frozen"


def known_weights(
    name: str,
    targets: "Sequence[Mapping[str, Any]]",
    images: "Tensor | Sequence[Tensor]",
    own: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """What the losses of a network for detection will be divided by, as far as that does not depend on what it predicts.

    Args:
        targets: of each image `boxes` and `labels`, on the CPU.
        images: [B, C, H, W], or B of [C, h, w], of which only the sizes count.
        own: the network's own options, `model.options`.
    """
    found: dict[str, float] = importlib.import_module(MODELS[name].module).known_weights(name, targets, images, own or {})
    return found


def frozen_eps(name: str, weights: str | None) -> float | None:
    """What frozen BatchNorm adds to variances where a network starts from published weights; None: what it always does.

    Raises:
        BadOption: where there are no such weights.
    """
    if weights is None or not is_pretrained(weights) or name not in MODELS:
        return None
    return MODELS[name].frozen_eps.get(check_weights(name, weights))


def backbone_of(name: str, given: str | None) -> str | None:
    """The name of a network's backbone: the given one, else the network's own; None where it has none."""
    return given if given is not None or timm_networks.is_one(name) else MODELS[name].backbone


def check(name: str, **options: Any) -> None:
    """Whether there is such a network, and whether it takes these options. Nothing is imported.

    Args:
        options: as `build` takes them.

    Raises:
        UnknownModel: with the nearest names.
        BadOption: naming the key of the recipe.
    """
    if timm_networks.is_one(name):
        if not timm_networks.is_installed():
            raise UnknownModel(f"{name!r} needs the package timm. Install it: pip install timm.")
        return
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.7)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`phalanx models` lists all."
        raise UnknownModel(f"there is no network {name!r}. {hint}")
    entry, wanted = MODELS[name], _options(options)
    _check_options(name, entry, wanted)
    _check_own_options(name, entry, wanted)
    backbone = _filled_in(entry, wanted).backbone
    if backbone is not None:
        _check_backbone(name, entry, backbone, wanted)


def _options(given: dict[str, Any]) -> Options:
    return Options(**{**given, "image_size": square(given.get("image_size"))})


def _filled_in(entry: ModelSpec, options: Options) -> Options:
    """With the network's own backbone, its stride where the backbone can have it, and all of its own options."""
    backbone, stride = options.backbone or entry.backbone, options.output_stride
    if stride is None and backbone in BACKBONES and "output_stride" in BACKBONES[backbone].takes:
        stride = entry.output_stride
    own = {key: option.default for key, option in entry.own.items()} | dict(options.options)
    return replace(options, backbone=backbone, output_stride=stride, options=own)


def _check_own_options(name: str, entry: ModelSpec, options: Options) -> None:
    for key, value in options.options.items():
        if key not in entry.own:
            raise BadOption(f"model.options.{key}: {name} has no such option; it takes {', '.join(entry.own)}. Remove it.")
        if not entry.own[key].takes(value):
            raise BadOption(f"model.options.{key}={value}: this is not {entry.own[key].kind}: {entry.own[key].meaning}.")


def _check_backbone(name: str, entry: ModelSpec, backbone: str, options: Options) -> None:
    if entry.backbones and backbone not in entry.backbones:
        raise BadOption(
            f"model.backbone={backbone}: {name} has one of {', '.join(entry.backbones)}. Set one of them, or remove the key."
        )
    if not timm_networks.is_one(backbone) and backbone not in BACKBONES:
        near = difflib.get_close_matches(backbone, BACKBONES, n=3, cutoff=0.7)
        hint = f"Did you mean {' or '.join(near)}?" if near else "`phalanx models --kind backbone` lists all."
        raise UnknownBackbone(f"model.backbone={backbone}: there is no backbone {backbone!r}. {hint}")
    check(backbone, image_size=options.image_size, output_stride=options.output_stride)


def _check_options(name: str, entry: ModelSpec, options: Options) -> None:
    for key, value in options.asked.items():
        if key == "backbone" and key not in entry.takes:
            raise BadOption(f"model.backbone={value}: {name} takes no backbone. Remove the key.")
        if key not in entry.takes:
            takes = ", ".join(f"model.{each}" for each in OPTIONAL if each in entry.takes)
            raise BadOption(f"model.{key}={value}: {name} has no such option; it takes {takes}. Remove the key.")
    own = entry.strides[-1] // (4 if options.stem == "small" else 1) if entry.strides else None
    if options.output_stride is not None and own is not None and options.output_stride > own:
        raise BadOption(
            f"model.output_stride={options.output_stride}: {name} has a stride of {own} with this stem. Remove the key."
        )
    if options.image_size is None:
        return
    height, width = options.image_size
    if height % entry.patch or width % entry.patch:
        near = [max(1, round(side / entry.patch)) * entry.patch for side in (height, width)]
        raise BadOption(
            f"data.image_size={_shown(height, width)}: {name} cuts images into patches of {entry.patch} x {entry.patch} "
            f"pixels. Set data.image_size={_shown(*near)}."
        )
    if min(height, width) < entry.smallest:
        raise BadOption(
            f"data.image_size={_shown(height, width)}: {name} leaves nothing of images below {entry.smallest} x "
            f"{entry.smallest} pixels. Set data.image_size={entry.smallest} or more."
        )


def _shown(height: int, width: int) -> str:
    return str(height) if height == width else f"[{height}, {width}]"


def choices(model: Mapping[str, Any], image_size: int | Sequence[int]) -> dict[str, Any]:
    """Those keys of a recipe's section `model`, and the size of its images, that `check` and `build` take."""
    return {key: model[key] for key in OPTIONAL} | {"image_size": image_size}


def build(name: str, **options: Any) -> "nn.Module":
    """A network with freshly initialised weights, drawn from torch's global generator.

    It has the attribute `block_names`: the modules that FSDP2 gathers one at a time. One with auxiliary heads gives, while
    it trains, a dictionary of logits (`out`, `aux1`, ...), and has `auxiliary_weight`.

    Shape: [B, in_channels, H, W] to [B, num_classes], for segmentation to [B, num_classes, H, W]; for detection see
        `phalanx.models.detection.rcnn.RegionNetwork`.

    Args:
        name: a key of `MODELS`, or `timm/NAME`.
        options: `num_classes`, `in_channels`, `image_size`, `stem`, `dropout`, `drop_path`, `output_stride`, `backbone`,
            `options`, as `phalanx.models.options.Options` has them.

    Raises:
        UnknownModel: with the nearest names.
        BadOption: naming the key of the recipe.
    """
    check(name, **options)
    if timm_networks.is_one(name):
        return _of_timm(name, "build", _options(options))
    entry = MODELS[name]
    wanted = _filled_in(entry, _options({"num_classes": entry.classes, **options}))
    network: nn.Module = importlib.import_module(entry.module).build(name, wanted)
    return network


def features(name: str, **options: Any) -> "Pyramid":
    """A network without its head: maps of features, fine to coarse, with `channels` and `strides`.

    Its parameters have the names that they have in the classification network.

    Args:
        name: a key of `MODELS`, or `timm/NAME`.
        options: as for `build`, but for those of the head.

    Raises:
        UnknownModel: with the nearest names.
        BadOption: naming the key of the recipe.
    """
    check(name, **options)
    if timm_networks.is_one(name):
        return _of_timm(name, "features", _options(options))
    entry = MODELS[name]
    if entry.kind != "backbone":
        raise UnknownModel(f"{name} is no backbone. `phalanx models --kind backbone` lists those that there are.")
    pyramid: Pyramid = importlib.import_module(entry.module).pyramid(name, _options(options), entry.channels)
    return pyramid


def _of_timm(name: str, function: str, options: Options) -> Any:
    try:
        return getattr(timm_networks, function)(name, options)
    except LookupError as error:
        raise UnknownModel(str(error.args[0])) from None


def is_pretrained(weights: str | None) -> bool:
    """Whether `model.weights` means weights that a library publishes, rather than a file."""
    return weights is not None and (weights in ("torchvision", "timm") or weights.startswith("torchvision/"))


def check_weights(name: str, weights: str) -> str:
    """Whether a library publishes such weights for a network; nothing is imported.

    Args:
        weights: `torchvision`, `torchvision/VERSION`, or `timm`.

    Returns:
        Their version, empty for timm's.

    Raises:
        BadOption: with those that there are.
    """
    if timm_networks.is_one(name) or weights == "timm":
        if not (timm_networks.is_one(name) and weights == "timm"):
            raise BadOption(
                f"model.weights={weights}: {name} is no network of that library. Set model.weights=" + _library(name) + "."
            )
        return ""
    published, version = MODELS[name].weights, weights.partition("/")[2]
    if not published:
        raise BadOption(f"model.weights={weights}: torchvision publishes no weights of {name}. Remove the key, or name a file.")
    if not version:
        return published[0]
    if version not in published:
        raise BadOption(
            f"model.weights={weights}: torchvision has no such weights of {name}. There are: {', '.join(published)}."
        )
    return version


def _library(name: str) -> str:
    return "timm" if timm_networks.is_one(name) else "torchvision"


def statistics(name: str, weights: str | None, channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of each channel, for pixels of 0 to 1, that published weights expect.

    Args:
        channels: of the image. For one channel it is the mean over the three; for other numbers there are none.

    Returns:
        None for weights of one's own, or none.

    Raises:
        BadOption: where there are no such weights.
    """
    if weights is None or not is_pretrained(weights) or channels not in (1, 3):
        return None
    version = check_weights(name, weights)
    found = timm_networks.statistics(name) if timm_networks.is_one(name) else _STATISTICS.get((name, version), _IMAGENET)
    if channels == 3:
        return found
    mean, deviation = (sum(values) / 3 for values in found)
    return (mean,), (deviation,)
