"""The supported image formats, and an image's size before anything is decoded. No torch here."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# Pillow has forty more: EPS starts Ghostscript, and the others are hardly used, each with a decoder to attack.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
NAMED = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, PPM, PGM and PBM"
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
JPEG, PNG, TIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# The first bytes of unsupported files that are images or similar; HEIF and JPEG XL have their type further on.
_OTHERS = (
    *((b"%!PS", "a PostScript file"), (b"\xc5\xd0\xd3\xc6", "a PostScript file"), (b"%PDF", "a PDF file")),
    *((b"8BPS", "a Photoshop file"), (b"\0\0\0\x0cjP", "a JPEG 2000 image"), (b"\xff\x4f\xff\x51", "a JPEG 2000 image")),
    *((b"\xff\x0a", "a JPEG XL image"), (b"\0\0\0\x0cJXL", "a JPEG XL image"), (b"SIMPLE  =", "a FITS file")),
    *((b"version https://git-lfs", "a pointer of Git LFS, which `git lfs pull` replaces"), (b"<!DOCTYPE html", "a web page")),
    *((b"<html", "a web page"), (b"PK\3\4", "an archive"), (b"\x1f\x8b", "an archive")),
    *((b"<svg", "an SVG drawing"), (b"\x93NUMPY", "a NumPy array"), (b"\x89HDF", "an HDF5 file"), (b"\0\0\1\0", "an icon")),
)
_HEIF = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers SOF (ITU-T T.81, table B.1)
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


# Bytes of text and colour profiles in a PNG, unpacked: of each, and of all. Pillow's own bound of 1 MB for each is less than
# the history that Photoshop writes into a picture.
_MOST_TEXT, _MOST_TEXTS = 64 << 20, 128 << 20


# Where Pillow keeps what it has read from chunks that are not texts; a text of such a name would take their place.
_OWN_FACTS = ("exif", "xmp", "transparency", "icc_profile", "gamma", "srgb", "chromaticity", "dpi", "aspect")
_EXIF = (b"Exif\0\0", b"II*\0", b"MM\0*")


class BrokenImage(ValueError):
    """A file that must not reach a decoder."""


class TooLarge(ValueError):
    """An image has more pixels than may be decoded."""


def is_image_name(name: str, arrays: bool = False) -> bool:
    """Whether a file's name is an image's: not hidden, with a known suffix.

    Args:
        arrays: whether NumPy arrays are images too, as with `data.mode=bands`.
    """
    return not name.startswith(".") and name.lower().endswith((*SUFFIXES, ".npy") if arrays else SUFFIXES)


def refuse_too_large(width: int, height: int, most: int) -> None:
    """Refuses an image of more pixels than `most`.

    Raises:
        TooLarge: with both numbers.
    """
    if width * height > most:
        raise TooLarge(f"this image is {width} x {height} = {width * height:,} pixels, and data.max_pixels is {most:,}")


def jpeg_size(content: bytes) -> tuple[int, int, int]:
    """Width and height of a JPEG, and where its first scan begins, parsed as in libjpeg (ITU-T T.81, B.1.1).

    Segments may hold anything, such as a thumbnail. Of several frame headers, which no decoder accepts, the largest counts.

    Raises:
        BrokenImage: if it has no size.
    """
    place, width, height = 2, 0, 0
    while True:
        place = content.find(b"\xff", place)
        while 0 <= place < len(content) and content[place] == 0xFF:  # padding before a marker
            place += 1
        if not 0 <= place < len(content):
            raise BrokenImage("it ends too early")
        marker, place = content[place], place + 1
        if marker == 0xDA:
            break
        if marker == 0xD9:
            raise BrokenImage("it ends too early")
        if marker == 0 or marker in _ALONE:
            continue
        if marker in _FRAMES and place + 7 <= len(content):
            own = int.from_bytes(content[place + 5 : place + 7], "big"), int.from_bytes(content[place + 3 : place + 5], "big")
            width, height = max((width, height), own, key=lambda size: size[0] * size[1])
        place += int.from_bytes(content[place : place + 2], "big")
    if not width or not height:
        raise BrokenImage("it has no size")
    return width, height, place - 2


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG (PNG specification, 11.2.1)."""
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def is_deep_colour(content: bytes) -> bool:
    """Whether a PNG has 16 bits per channel and more than one channel, which Pillow would cut to 8 bits."""
    depth_and_colour = content[24:26]  # PNG specification, 11.2.1
    return content.startswith(PNG) and depth_and_colour[:1] == b"\x10" and depth_and_colour[1:] != b"\x00"


@contextmanager
def opened(content: bytes, max_pixels: int) -> Iterator[Any]:
    """Pillow's image in a supported format, to be decoded within the context.

    Raises:
        TooLarge: if it has more pixels than `max_pixels`.
    """
    from PIL import Image

    with without_bound():
        image = Image.open(io.BytesIO(content), formats=known_formats())
        refuse_too_large(*image.size, max_pixels)
        yield image


@contextmanager
def without_bound() -> Iterator[None]:
    """Lifts Pillow's own process-wide bounds on sizes and texts."""
    from PIL import Image, PngImagePlugin

    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = None, _MOST_TEXT, _MOST_TEXTS
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = before


def forget_texts(image: Any) -> None:
    """Takes texts of a PNG away that stand where Pillow looks for what it read itself, such as EXIF data and opacity."""
    if image.format == "PNG":
        image.load()  # they may stand after the pixels, for which Pillow would look in any case
    for key in _OWN_FACTS:
        value = image.info.get(key)
        if isinstance(value, str) or (key == "exif" and value is not None and not value.startswith(_EXIF)):
            del image.info[key]


@cache
def known_formats() -> tuple[str, ...]:
    """The supported formats that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def unknown(content: bytes) -> str:
    """A description of a file that no supported decoder accepts."""
    if content.startswith(TIFF):
        return "this TIFF cannot be decoded (its header is broken, or its numbers are of an unsupported type)"
    name = next((name for start, name in _OTHERS if content.lstrip()[: len(start)] == start), None)
    if name is None and content[4:8] == b"ftyp" and content[8:12] in _HEIF:
        name = "a HEIF image, as phones write them"
    if name is None and content[128:132] == b"DICM":
        name = "a DICOM file"
    return "this file is not an image" if name is None else f"this is {name}; supported are {NAMED}"
