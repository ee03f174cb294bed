"""Warns if training would enlarge images: if `data.image_size` is larger than all of them."""

from contextlib import suppress
from typing import Any

from phalanx.configs.sections.data import DataConfig
from phalanx.data.bad_sample import Unreadable
from phalanx.data.dataset import Dataset
from phalanx.data.inspect.check import once_each, spread

_LOOKED_AT = 4  # images, evenly spread


def enlarged(dataset: Dataset, config: DataConfig) -> list[str]:
    """A message, if `data.image_size` is larger in both directions than the images that were checked."""
    dataset, numbers = once_each(dataset)
    sizes: list[tuple[int, int]] = []
    for number in spread(numbers, _LOOKED_AT).tolist():
        with suppress(Unreadable):  # checked before: training skips it
            image: Any = dataset[number]["image"]
            sizes.append(tuple(image.shape[-2:]))
    given = config.image_size
    height, width = (given, given) if isinstance(given, int) else given
    highest, widest = map(max, zip(*sizes, strict=True)) if sizes else (height, width)
    if height <= highest or width <= widest:
        return []
    return [
        f"data.image_size={given if isinstance(given, int) else list(given)}: of {len(sizes)} images checked none is "
        f"larger than {highest} x {widest} (height x width), so they are enlarged, which costs time and adds no detail. "
        f"Set data.image_size=[{highest}, {widest}] or less, if that is not intended."
    ]
