"""Files of images in every format: changed bytes, cut ones, headers that lie."""

import struct
import zlib
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz import mutations
from tests.fuzz.case import Case
from tests.fuzz.law import Broken
from tests.fuzz.targets.pictures import image
from tests.fuzz.targets.target import Target

_FORMS: list[tuple[str, str]] = [("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")]
_FORMS += [
    ("JPEG", "RGB"),
    ("JPEG", "L"),
    ("JPEG", "CMYK"),
    ("BMP", "RGB"),
    ("BMP", "L"),
    ("GIF", "P"),
    ("WEBP", "RGB"),
    ("WEBP", "RGBA"),
]
_FORMS += [("TIFF", mode) for mode in ("RGB", "L", "F", "I", "I;16", "CMYK", "RGBA", "1")] + [
    ("PPM", "RGB"),
    ("PPM", "L"),
    ("PPM", "1"),
]
_FORMS += [
    ("EPS", "RGB"),
    ("PDF", "RGB"),
    ("ICO", "RGBA"),
    ("TGA", "RGB"),
    ("SGI", "RGB"),
    ("PCX", "RGB"),
    ("JPEG2000", "RGB"),
    ("DDS", "RGB"),
]
_SIDES = [0, 1, 2, 3, 255, 20_000, 65_535, 100_000, 2**31 - 1, 2**32 - 1]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


_ROWS = zlib.compress(bytes(400))
_EXTRAS = [b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"iCCP", b"sBIT", b"bKGD", b"hIST", b"eXIf", b"IHDR", b"acTL", b"zTXt", b"ABCD"]


def _png(
    width: int, height: int, depth: int, colour: int, interlaced: int = 0, data: bytes = _ROWS, extra: bytes = b""
) -> bytes:
    """A PNG whose header is right but for what it says."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _deep_png(draw: mutations.Draw) -> bytes:
    """One of 16 bits a colour, with right checksums over rows and chunks that are not: torchvision decodes it, not Pillow."""
    width, height, colour = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.sampled_from([2, 4, 6]))
    rows = b"".join(bytes([draw(st.sampled_from([0, 1, 2, 3, 4, 4, 5, 255]))]) + bytes(width * 8) for _ in range(height))
    data = zlib.compress(rows[: draw(st.sampled_from([len(rows)] * 3 + [0, 1, len(rows) // 2]))])
    data = mutations.raw(draw, data, most=1) if draw(st.integers(0, 2)) == 0 else data
    extra = draw(st.sampled_from(_EXTRAS))
    more = _chunk(extra, draw(st.binary(max_size=20))) if draw(st.booleans()) else b""
    return _png(width, height, 16, colour, draw(st.integers(0, 1)), data, more)


def _jpeg(width: int, height: int) -> bytes:
    """A JPEG that claims other sides."""
    content = bytearray(image("JPEG"))
    place = content.find(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    return bytes(content)


@st.composite
def _images(draw: mutations.Draw) -> Case:
    how = draw(st.sampled_from(["bytes", "bytes", "bytes", "good", "cut", "png", "deep", "jpeg", "sides", "joined"]))
    form, mode = draw(st.sampled_from(_FORMS))
    if how == "png":
        sides = draw(st.sampled_from(_SIDES)), draw(st.sampled_from(_SIDES))
        content = _png(
            *sides,
            draw(st.sampled_from([1, 2, 4, 8, 16, 3])),
            draw(st.sampled_from([0, 2, 3, 4, 6, 1])),
            draw(st.integers(0, 2)),
        )
    elif how == "deep":
        content = _deep_png(draw)
    elif how == "jpeg":
        content = _jpeg(draw(st.sampled_from(_SIDES)), draw(st.sampled_from(_SIDES)))
    else:
        content = image(
            form, mode, *(draw(st.sampled_from([(1, 1), (2, 2), (1, 40), (70, 3), (33, 17)])) if how == "sides" else (12, 10))
        )
    if how == "bytes":
        content = mutations.raw(draw, content)
    elif how == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif how == "joined":
        content = content[: len(content) // 2] + image(*draw(st.sampled_from(_FORMS)))
    return Case("images", {"image.png": content}, draw(st.sampled_from(["grey", "rgb", "rgba", "mask"])))


def _door(case: Case, _: Path) -> None:
    import numpy
    import torch

    from phalanx.data.images.decoding import read_image, read_mask

    if case.given == "mask":
        pixels = read_mask("image.png")
        if pixels.ndim != 2 or pixels.dtype not in (torch.uint8, torch.uint16):
            raise Broken("a mask of another kind")
        return
    pixels = read_image("image.png", case.given)
    channels = {"grey": 1, "rgb": 3, "rgba": 4}[case.given]
    if pixels.ndim != 3 or pixels.shape[0] != channels or pixels.dtype not in (torch.uint8, torch.uint16):
        raise Broken("an image of another kind")
    pixels.numpy().sum(dtype=numpy.int64)  # every byte of it is there; without a copy in wider numbers, as torch makes it


def _prepare() -> None:
    from PIL import Image

    import phalanx.data.images.decoding  # noqa: F401

    Image.init()


TARGETS = [
    Target("images", "every image format: changed bytes, cut files, headers that lie", 150, _images, _door, prepare=_prepare)
]
