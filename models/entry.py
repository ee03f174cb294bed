"""What is known of a network without building it. No torch here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What the networks of a paper have in common.

    Attributes:
        module: has `build(name, options)`, and `pyramid(name, options, channels)` where the networks are backbones.
        paper: title's short form, venue, arXiv number.
        takes: options that not every network takes.
        strides: of the maps of features.
        smallest: side of the smallest image, in pixels.
    """

    module: str
    paper: str
    takes: tuple[str, ...]
    strides: tuple[int, ...]
    smallest: int = 1


@dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        family: its paper's.
        params: parameters for 1000 classes and 3 channels, as published with the weights.
        score: top-1 accuracy on ImageNet-1K in per cent, of the first of `weights`, as torchvision documents it.
        weights: versions of published weights, the default first.
        channels: of the maps of features.
        params_training: all parameters while training, where auxiliary heads add to `params`.
        patch: sides of images must be multiples of it.
        kind: `backbone`.
    """

    family: Family
    params: int
    score: float
    weights: tuple[str, ...]
    channels: tuple[int, ...]
    params_training: int | None = None
    patch: int = 1
    kind: str = "backbone"

    @property
    def module(self) -> str:
        return self.family.module

    @property
    def takes(self) -> tuple[str, ...]:
        return self.family.takes

    @property
    def strides(self) -> tuple[int, ...]:
        return self.family.strides if self.patch == 1 else (self.patch,)

    @property
    def smallest(self) -> int:
        return max(self.family.smallest, self.patch)

    @property
    def source(self) -> str:
        return f"{self.family.paper}; torchvision"
