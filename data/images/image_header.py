"""The size of an image file, from its first bytes. No torch here."""

import warnings
from pathlib import Path
from typing import NamedTuple

from phalanx.data.images.image_formats import forget_texts, known_formats, without_bound

# EXIF 2.3, 4.6.4: orientations rotated by 90 degrees.
_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)


class Header(NamedTuple):
    """Height and width in pixels, as they are stored, and whether EXIF's orientation exchanges them."""

    height: int
    width: int
    on_its_side: bool

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the upright image."""
        return (self.width, self.height) if self.on_its_side else (self.height, self.width)


def read_header(path: Path) -> Header | None:
    """The header of an image file; None if it does not exist, or is not an image."""
    from PIL import Image

    try:
        if not path.is_file():
            return None
        with warnings.catch_warnings(), without_bound():  # nothing is decoded here
            warnings.simplefilter("ignore")
            with Image.open(path, formats=known_formats()) as image:
                forget_texts(image)
                return Header(image.height, image.width, image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE)
    except Exception:  # a broken file makes Pillow raise any exception; decoding reports it
        return None
