"""What a network can be asked for, and the refusal of what it cannot give. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal


class BadOption(ValueError):
    """A network does not take an option; the message names the key of the recipe, and what to change."""


@dataclass(frozen=True)
class Options:
    """Keys of a recipe that shape a network.

    Attributes:
        num_classes: outputs.
        in_channels: channels of the image.
        image_size: height and width in pixels; the network's own, mostly 224, where it is None.
        stem: `small` keeps a ResNet's first layers at the image's own size.
        dropout: before the last linear layers; None: the network's own.
        drop_path: rate of stochastic depth in the last block, rising from 0 in the first; None: the network's own.
        output_stride: of the deepest features, kept by dilation; None: the network's own.
    """

    num_classes: int = 1000
    in_channels: int = 3
    image_size: tuple[int, int] | None = None
    stem: Literal["standard", "small"] = "standard"
    dropout: float | None = None
    drop_path: float | None = None
    output_stride: int | None = None

    @property
    def asked(self) -> dict[str, object]:
        """What is not left to the network, of the options that not every network takes."""
        optional = [field for field in fields(self) if field.name in OPTIONAL]
        found = {field.name: getattr(self, field.name) for field in optional}
        return {name: value for name, value in found.items() if value not in (None, "standard")}


OPTIONAL = ("stem", "dropout", "drop_path", "output_stride")


def square(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """Height and width of what may be the side of a square."""
    if image_size is None or isinstance(image_size, int):
        return None if image_size is None else (image_size, image_size)
    height, width = image_size
    return (height, width)
