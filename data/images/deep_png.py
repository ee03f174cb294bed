"""Checks that a PNG of 16 bits per colour has all of its pixels: torchvision 0.29 crashes if it does not. No torch here.

PNG specification (Third Edition), 5.3, 7.3, 8 and 9: chunks; rows, each with a byte of its filter; seven passes; filters.
"""

import struct
import zlib
from collections.abc import Iterator

from phalanx.data.images.image_formats import PNG, BrokenImage

_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by the type of colour
_BYTES = 2  # per channel
_FILTERS = 5
# Adam7's passes: first column and row, and the steps between them.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def check_pixels(content: bytes) -> None:
    """Reads the rows of a PNG whose checksums are right.

    Raises:
        BrokenImage: if there are too few or too many, or one has an unknown filter.
    """
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if depth != 8 * _BYTES or colour not in _CHANNELS or interlaced > 1 or not width or not height:
        raise BrokenImage("its header is broken")
    images = [(width, height)]
    if interlaced:
        sides = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _PASSES]
        images = [(columns, rows) for columns, rows in sides if columns > 0 and rows > 0]
    rows = [(1 + columns * _CHANNELS[colour] * _BYTES, count) for columns, count in images]
    total = sum(size * count for size, count in rows)
    stream = zlib.decompressobj()
    try:
        pixels = stream.decompress(b"".join(_data(content)), total + 1)
    except zlib.error:
        raise BrokenImage("its pixels are broken") from None
    if len(pixels) < total or (len(pixels) == total and not stream.eof):
        raise BrokenImage("it ends too early")
    if len(pixels) > total:
        raise BrokenImage("its pixels are broken")
    start = 0
    for size, count in rows:
        if max(pixels[start : start + size * count : size]) >= _FILTERS:
            raise BrokenImage("its pixels are broken")
        start += size * count


def _data(content: bytes) -> Iterator[bytes]:
    """The compressed pixels, which may be cut into several chunks."""
    place = len(PNG)
    while place + 8 <= len(content):
        size, name = struct.unpack(">I4s", content[place : place + 8])
        if name == b"IDAT":
            yield content[place + 8 : place + 8 + size]
        if name == b"IEND":
            return
        place += 12 + size
