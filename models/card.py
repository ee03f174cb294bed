"""What is known of a network without building it. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Mean and standard deviation of each channel.
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


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
class OwnOption:
    """An option that only one network has, a key of `model.options`.

    Attributes:
        kind: of its values; numbers are positive integers.
        words: the allowed words.
    """

    kind: Literal["true or false", "a number", "a list of numbers", "a word"]
    default: Any
    meaning: str
    words: tuple[str, ...] = ()

    def takes(self, value: Any) -> bool:
        """Whether a value is of this kind; the default always is."""
        if value == self.default and type(value) is type(self.default):
            return True
        if self.kind == "true or false":
            return isinstance(value, bool)
        if self.kind == "a word":
            return value in self.words
        numbers = value if self.kind == "a list of numbers" and isinstance(value, list) else [value]
        is_list = isinstance(value, list) == (self.kind == "a list of numbers")
        return is_list and bool(numbers) and all(type(number) is int and number > 0 for number in numbers)


@dataclass(frozen=True)
class ModelCard:
    """What is published of one network, and what it can be asked for.

    Attributes:
        family: its paper's.
        params: parameters for `classes` and 3 channels, as `params_source` has them.
        score: the metric `score_of` in per cent of the first of `weights`, as documented by torchvision.
        weights: versions of published weights, the default first.
        channels: of the maps of features.
        params_training: all parameters in training, if auxiliary heads add to `params`.
        patch: sides of images must be multiples of it.
        kind: `backbone`, `segmentation` or `detection`.
        classes: default number of outputs.
        params_source: the source of the number of parameters, `derived` without one.
        backbone: the default one; None: none.
        backbones: those that it takes; empty: all.
        output_stride: the backbone's default; None: the backbone's own.
        own: what `model.options` takes.
        background: whether `classes` includes the background, as the first.
        masks: whether it predicts the mask of each object (detection).
        image_statistics: by version of published weights, mean and standard deviation of each channel of the images that they
            were trained on, for pixels of 0 to 1, if these are not ImageNet's.
        frozen_eps: by version of published weights, what frozen BatchNorm added to variances when they were trained.
    """

    family: Family
    params: int
    score: float | None = None
    weights: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()
    params_training: int | None = None
    patch: int = 1
    kind: str = "backbone"
    classes: int = 1000
    params_source: str = "torchvision"
    backbone: str | None = None
    backbones: tuple[str, ...] = ()
    output_stride: int | None = None
    own: Mapping[str, OwnOption] = field(default_factory=dict)
    background: bool = False
    masks: bool = False
    image_statistics: Mapping[str, Statistics] = field(default_factory=dict)
    frozen_eps: Mapping[str, float] = field(default_factory=dict)

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
        return f"{self.family.paper}; {self.params_source}"

    @property
    def score_of(self) -> str:
        """What `score` is."""
        if self.kind == "backbone":
            return "top-1 accuracy on ImageNet-1K"
        if self.kind == "detection":
            return "box AP on COCO val2017"
        return "mIoU on COCO's images of VOC's classes"
