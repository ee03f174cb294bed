"""Reading image files, from the cache where there is one."""

from torch import Tensor

from phalanx.data.cache import Cache
from phalanx.data.images import read_image, read_mask
from phalanx.data.modes import Mode


class Reader:
    """Reads images and masks.

    Args:
        cache: folder for decoded images; None for none.
    """

    def __init__(self, cache: str | None):
        self._cache = None if cache is None else Cache(cache)

    def image(self, path: str, mode: Mode) -> Tensor:
        """See `images.read_image`."""
        if self._cache is None:
            return read_image(path, mode)
        return self._cache.get(path, mode, lambda: read_image(path, mode))

    def mask(self, path: str) -> Tensor:
        """See `images.read_mask`: uint8 or uint16 `[H, W]`."""
        if self._cache is None:
            return read_mask(path)
        return self._cache.get(path, "mask", lambda: read_mask(path).unsqueeze(0))[0]
