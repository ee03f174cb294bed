"""Masks as image files: each pixel's class index, with a palette for viewers."""

from pathlib import Path

import numpy
from numpy.typing import NDArray
from PIL import Image

from phalanx.data.inspect.drawing import colour

_IN_A_BYTE = 256


def write_mask(path: Path, mask: NDArray[numpy.integer], classes: int) -> None:
    """Writes a PNG whose pixels are class indices: with a palette; 16 bits and grey if a byte is too small.

    Args:
        mask: the class of each pixel, [H, W].
        classes: number of classes.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if classes > _IN_A_BYTE:
        Image.fromarray(mask.astype(numpy.uint16)).save(path)
        return
    image = Image.fromarray(mask.astype(numpy.uint8), mode="P")
    image.putpalette([level for number in range(classes) for level in colour(number)])
    image.save(path)
