"""Warns if training would enlarge images, or make them much smaller than they are."""

from contextlib import suppress
from typing import Any

from phalanx.configs.sections.data import DataConfig
from phalanx.data.bad_sample import Unreadable
from phalanx.data.dataset import Dataset
from phalanx.data.inspect.check import once_each, spread

_LOOKED_AT = 4  # images, evenly spread
_MUCH = 8


def enlarged(dataset: Dataset, config: DataConfig) -> list[str]:
    """A message, if `data.image_size` is larger in both directions than the images that were checked."""
    sizes, given = _sizes(dataset), config.image_size
    height, width = (given, given) if isinstance(given, int) else given
    highest, widest = map(max, zip(*sizes, strict=True)) if sizes else (height, width)
    if height <= highest or width <= widest:
        return []
    return [
        f"data.image_size={given if isinstance(given, int) else list(given)}: of {len(sizes)} images checked none is "
        f"larger than {highest} x {widest} (height x width), so they are enlarged, which costs time and adds no detail. "
        f"Set data.image_size=[{highest}, {widest}] or less, if that is not intended."
    ]


def made_small(dataset: Dataset, config: DataConfig) -> list[str]:
    """A message, if most of the images that were checked are much larger than `data.image_size` in both directions."""
    given = config.image_size
    height, width = (given, given) if isinstance(given, int) else given
    sizes = _sizes(dataset)
    large = [size for size in sizes if size[0] > _MUCH * height and size[1] > _MUCH * width]
    if not sizes or 2 * len(large) <= len(sizes):
        return []
    shown = " x ".join(map(str, large[0]))
    return [
        f"data.image_size={given if isinstance(given, int) else list(given)}: images are as large as {shown} (height x "
        f"width), and are seen at less than a {_MUCH}th of that, where details are lost. Set a larger data.image_size, if that "
        "is not intended."
    ]


def _sizes(dataset: Dataset) -> list[tuple[int, int]]:
    """Height and width of a few images."""
    dataset, numbers = once_each(dataset)
    sizes: list[tuple[int, int]] = []
    for number in spread(numbers, _LOOKED_AT).tolist():
        with suppress(Unreadable):  # checked before: training skips it
            image: Any = dataset[number].get("image")
            if image is not None:
                sizes.append(tuple(image.shape[-2:]))
    return sizes
