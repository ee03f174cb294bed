"""Reading image files, from the cache if there is one."""

from typing import Literal

from torch import Tensor

from phalanx.data.images.cache import Cache
from phalanx.data.images.decoding import read_image, read_mask
from phalanx.data.images.modes import Mode


class Reader:
    """Reads images and masks.

    Args:
        cache: folder for decoded images; None for none.
        max_pixels: the most pixels of an image or a mask.
    """

    def __init__(self, cache: str | None, max_pixels: int):
        self._cache, self._max_pixels = None if cache is None else Cache(cache), max_pixels

    def image(self, path: str, mode: Mode | Literal["bands"]) -> Tensor:
        """See `images.read_image`."""
        if self._cache is None:
            return read_image(path, mode, self._max_pixels)
        return self._cache.get(path, mode, lambda: read_image(path, mode, self._max_pixels))

    def mask(self, path: str) -> Tensor:
        """See `images.read_mask`: uint8 or uint16 `[H, W]`."""
        if self._cache is None:
            return read_mask(path, self._max_pixels)
        return self._cache.get(path, "mask", lambda: read_mask(path, self._max_pixels).unsqueeze(0))[0]
