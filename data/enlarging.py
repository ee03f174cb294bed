"""Whether training would see images larger than they are: a crop of `data.image_size` that is larger than any of them."""

from phalanx.configs.data import DataConfig
from phalanx.data.bad_sample import Unreadable
from phalanx.data.check import once_each, spread
from phalanx.data.dataset import Dataset

_LOOKED_AT = 4  # images, evenly spread


def enlarged(dataset: Dataset, config: DataConfig) -> list[str]:
    """A sentence, where `data.image_size` is larger in both directions than the images that were looked at."""
    dataset, numbers = once_each(dataset)
    heights, widths = [0], [0]
    for number in spread(numbers, _LOOKED_AT).tolist():
        try:
            height, width = dataset[number]["image"].shape[-2:]  # type: ignore[union-attr]
        except Unreadable:  # checked before: training passes it over
            continue
        heights.append(int(height))
        widths.append(int(width))
    given = config.image_size
    wanted = (given, given) if isinstance(given, int) else given
    largest = max(heights), max(widths)
    if 0 in largest or wanted[0] <= largest[0] or wanted[1] <= largest[1]:
        return []
    return [
        f"data.image_size={given if isinstance(given, int) else list(given)}: of {len(heights) - 1} images looked at none is "
        f"larger than {largest[0]} x {largest[1]} (height x width), so they are enlarged, which costs time and adds no detail. "
        f"Set data.image_size=[{largest[0]}, {largest[1]}] or less, if that is not meant."
    ]
