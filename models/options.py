"""What a network can be asked for, and the refusal of what it cannot give. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal


class BadOption(ValueError):
    """A network does not take an option; the message names the key of the recipe, and what to change."""


@dataclass(frozen=True)
class Options:
    """Keys of a recipe that shape a network.

    Attributes:
        num_classes: outputs.
        in_channels: channels of the image.
        image_size: height and width in pixels; the network's own, mostly 224, if None.
        stem: of a ResNet: `small` keeps the first layers at the image's own size; `resnet_c` and `resnet_d` are those of He et
            al., CVPR 2019.
        dropout: before the last linear layers; None: the network's own.
        drop_path: rate of stochastic depth in the last block, rising from 0 in the first; None: the network's own.
        output_stride: of the deepest features, kept by dilation; None: the network's own.
        backbone: of a network that takes one; None: the network's own.
        options: the network's own options by name; what is left out stands at its default.
    """

    num_classes: int = 1000
    in_channels: int = 3
    image_size: tuple[int, int] | None = None
    stem: Literal["standard", "small", "resnet_c", "resnet_d"] = "standard"
    dropout: float | None = None
    drop_path: float | None = None
    output_stride: int | None = None
    backbone: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> dict[str, object]:
        """What is not left to the network, of the options that not every network takes."""
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.name in OPTIONAL}
        return {name: value for name, value in found.items() if value not in (None, "standard", {})}

    def own(self, name: str) -> Any:
        """The value of an option that only this network has; the registry has checked it, or filled in its default."""
        return self.options[name]


OPTIONAL = ("stem", "dropout", "drop_path", "output_stride", "backbone", "options")


def choices(model: Mapping[str, Any], image_size: int | Sequence[int]) -> dict[str, Any]:
    """Those keys of a recipe's section `model`, and the size of its images, that a network is built with."""
    return {key: model[key] for key in OPTIONAL} | {"image_size": image_size}


def square(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of what may be the side of a square."""
    if image_size is None or isinstance(image_size, int):
        return None if image_size is None else (image_size, image_size)
    height, width = image_size
    return (height, width)
