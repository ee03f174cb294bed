"""`timm/NAME`: any network of timm (pytorch-image-models), if that package is installed. It is imported on use."""

import difflib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phalanx.models.options import BadOption, Options

if TYPE_CHECKING:
    from torch import nn

    from phalanx.models.backbones.pyramid import Pyramid

PREFIX = "timm/"


class NoSuchNetwork(LookupError):
    """timm has no network of that name; the message lists the nearest."""


# The options of a recipe under the names that timm has for them.
_NAMES = {"dropout": "drop_rate", "drop_path": "drop_path_rate", "output_stride": "output_stride"}


def is_one(name: str) -> bool:
    return name.startswith(PREFIX)


def is_installed() -> bool:
    return importlib.util.find_spec("timm") is not None


def build(name: str, options: Options) -> "nn.Module":
    """A classification network of timm.

    Raises:
        NoSuchNetwork: with the nearest names.
        BadOption: for what this network does not take.
    """
    network = _create(name, options, num_classes=options.num_classes)
    network.block_names = block_names(network)
    first = network.default_cfg.get("first_conv")
    if isinstance(first, str):
        network.input_weight = f"{first}.weight"
    return network


def pyramid(name: str, options: Options, channels: tuple[int, ...]) -> "Pyramid":
    """The maps of timm's `features_only`. Its parameters have timm's names of that form, which for most networks are others.

    Args:
        channels: unused, since timm's network has its own.

    Raises:
        NoSuchNetwork: with the nearest names.
        BadOption: for what this network does not take.
    """
    network = _create(name, options, features_only=True)
    network.block_names = block_names(network)
    network.channels, network.strides = tuple(network.feature_info.channels()), tuple(network.feature_info.reduction())
    return network


def _create(name: str, options: Options, **more: Any) -> Any:
    import timm

    plain = name.removeprefix(PREFIX)
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models(), n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(PREFIX + each for each in near)}?" if near else "timm.list_models() lists all."
        raise NoSuchNetwork(f"timm has no network {plain!r}. {hint}")
    for key, value in options.asked.items():
        if key not in _NAMES:
            raise BadOption(f"model.{key}={value}: {name} has no such option. Remove the key.")
    given = {_NAMES[key]: value for key, value in options.asked.items()}
    if _fixes_image_size(timm, plain) and options.image_size is not None:
        given["img_size"] = options.image_size
    try:
        return timm.create_model(plain, pretrained=False, in_chans=options.in_channels, **given, **more)
    except TypeError as error:
        refused = [key for key, theirs in _NAMES.items() if f"'{theirs}'" in str(error)]
        if not refused:
            raise
        raise BadOption(f"model.{refused[0]}={options.asked[refused[0]]}: {name} has no such option. Remove the key.") from None


def _fixes_image_size(timm: Any, plain: str) -> bool:
    """Whether a network is built for one size of images."""
    return bool(timm.get_pretrained_cfg(plain).fixed_input_size)


def block_names(network: "nn.Module") -> tuple[str, ...]:
    """What FSDP2 gathers at a time: the items of the network's lists of layers, such as `blocks.0`."""
    from torch import nn

    return tuple(
        f"{name}.{item}"
        for name, child in network.named_children()
        if isinstance(child, nn.Sequential | nn.ModuleList)
        for item, layer in child.named_children()
        if next(layer.parameters(), None) is not None and not isinstance(layer, nn.ModuleList | nn.ModuleDict)
    )


def statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel that timm's weights expect."""
    import timm

    config = timm.get_pretrained_cfg(name.removeprefix(PREFIX))
    return tuple(config.mean), tuple(config.std)


def weights_file(name: str) -> Path:
    """timm's weights, in safetensors, from the Hugging Face hub or its cache.

    Raises:
        OSError: if they cannot be downloaded.
        LookupError: if timm publishes none.
    """
    import timm
    from huggingface_hub import hf_hub_download

    config = timm.get_pretrained_cfg(name.removeprefix(PREFIX))
    if config is None or not config.hf_hub_id:
        raise LookupError(f"timm publishes no weights of {name}")
    return Path(hf_hub_download(config.hf_hub_id, "model.safetensors"))
