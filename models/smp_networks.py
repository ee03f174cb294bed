"""`smp/NAME`: a network of segmentation_models.pytorch, if that package is installed. It is imported on use."""

import difflib
import importlib.util
import inspect
from typing import TYPE_CHECKING, Any

from phalanx.models import own_network
from phalanx.models.options import BadOption, Options
from phalanx.models.timm_networks import NoSuchNetwork

if TYPE_CHECKING:
    from torch import nn

PREFIX = "smp/"


def is_one(name: str) -> bool:
    return name.startswith(PREFIX)


def is_installed() -> bool:
    return importlib.util.find_spec("segmentation_models_pytorch") is not None


def build(name: str, options: Options) -> "nn.Module":
    """A network for segmentation; `model.options` are its arguments, such as `encoder_name`, and `encoder_weights` is null.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].

    Raises:
        NoSuchNetwork: with the nearest names.
        BadOption: for an option or an image size that the network does not take.
    """
    import segmentation_models_pytorch as smp

    plain = name.removeprefix(PREFIX)
    made: Any = getattr(smp, plain, None)
    if not isinstance(made, type) or not issubclass(made, smp.base.SegmentationModel):
        known = [key for key, value in vars(smp).items() if isinstance(value, type) and key[0].isupper()]
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.4)
        hint = f"Did you mean {PREFIX}{near[0]}?" if near else f"There are: {', '.join(known)}."
        raise NoSuchNetwork(f"segmentation_models.pytorch has no network {plain!r}. {hint}")

    def call(num_classes: int, in_channels: int = 3, **given: Any) -> Any:
        return made(**{"encoder_weights": None} | given, classes=num_classes, in_channels=in_channels)

    taken = [p for key, p in inspect.signature(made).parameters.items() if key not in ("in_channels", "classes", "activation")]
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in taken if p.kind is not p.VAR_KEYWORD]
    given = [p for p in inspect.signature(call).parameters.values() if p.kind is not p.VAR_KEYWORD]
    call.__signature__ = inspect.Signature([*given, *own])  # type: ignore[attr-defined]
    own_network.register(name, call)
    try:
        network: Any = own_network.build(name, options)
    except (KeyError, ValueError) as error:  # its sentence on an unknown encoder, or a value that cannot be
        raise BadOption(f"model.options: {name}: {error.args[0] if error.args else error}") from None
    stride, size = getattr(network.encoder, "output_stride", 32), options.image_size
    if getattr(network, "requires_divisible_input_shape", False) and size is not None and any(side % stride for side in size):
        near_size = [max(1, round(side / stride)) * stride for side in size]
        raise BadOption(
            f"data.image_size={list(size)}: {name} takes images whose sides are multiples of {stride}. "
            f"Set data.image_size={near_size}."
        )
    network.backbone_name = "encoder"
    result: nn.Module = network
    return result
