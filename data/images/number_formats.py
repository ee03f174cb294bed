"""Converts an image file's numbers, in any format, to colours or classes; ambiguous ones are refused by name."""

import io
import re
import sys
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from phalanx.data.images.image_formats import forget_texts, is_deep_colour

_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 254, 258, 259, 262, 284, 339  # tags of TIFF 6.0
_SAMPLES, _EXTRA = 277, 338
_COLOURS = {0: 1, 1: 1, 3: 1, 5: 4}  # samples of a colour, by photometric interpretation: grey, palette, CMYK; of others 3
_WHITE_IS_ZERO, _SIGNED, _JPEG_IN_TIFF, _REDUCED_OR_MASK = 0, 2, (6, 7), 5
_MOST = 0xFFFF
_AS_THEY_ARE = ("L", "LA", "RGB", "RGBA")


class NoMeaning(ValueError):
    """Numbers without a unique meaning as colours or classes."""


def pixels_of(image: Any, mode: Literal["grey", "rgb", "rgba"]) -> NDArray[Any]:
    """The colours of an image opened by Pillow, upright: uint8 or uint16 `[H, W]` or `[H, W, channels]`.

    Integers beyond 8 bits keep their depth, black is 0 and white the largest number. Floating point numbers have no common
    white, so they are accepted only if all are integers of a byte.

    Raises:
        NoMeaning: for other numbers.
    """
    _refuse_bands(image, mode)
    deep = _deep_colours(image)
    if deep is not None:
        return deep
    inverted, bits, unsigned = _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO, _tag(image, _BITS, 0), _is_unsigned(image)
    _refuse_signed(image)
    if image.mode == "LAB":
        raise NoMeaning("the colours of this image are LAB, which are not converted")
    image = _upright(image)
    if image.mode.startswith("I"):
        values = _integers(image, "pixel values", unsigned)
        values = _MOST - values if inverted and image.mode != "I" else values
        return values << 4 | values >> 8 if bits == 12 else values
    if image.mode == "F":
        return _floating_pixels(image)
    if image.mode == "La":  # premultiplied alpha
        image = image.convert("LA")
    see_through = image.mode in ("PA", "RGBa") or "transparency" in image.info
    if see_through and (mode == "rgba" or image.mode not in _AS_THEY_ARE):
        image = image.convert("RGBA")
    elif image.mode not in _AS_THEY_ARE:
        image = image.convert("RGB")
    return numpy.array(image)


def classes_of(image: Any, content: bytes) -> NDArray[Any]:
    """A mask's stored number per pixel: uint8 or uint16 `[H, W]`.

    Upright like its image. From a grey image of any depth, a palette, floating point numbers that are integers, or colours
    with equal channels.

    Raises:
        NoMeaning: if pixels have no such number, or compression has changed it.
    """
    _refuse_lossy(image, content)
    _refuse_bands(image, "rgba")
    _refuse_signed(image)
    if is_deep_colour(content) or (_tag(image, _BITS, 0) == 16 and image.mode in ("RGB", "RGBA", "CMYK")):
        raise NoMeaning("a mask has one number per pixel, its class, but this image has several channels of 16 bits")
    if _tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO or content.startswith((b"P1", b"P4")):
        kind = "TIFF" if image.format == "TIFF" else "PBM"
        raise NoMeaning(f"this {kind} declares that white is zero, so its numbers may be intended as they are or inverted")
    _refuse_pages(image)
    upright = _upright(image)  # like the image that it belongs to
    depth, most, unsigned = _grey_depth(image, content), _portable_most(content), _is_unsigned(image)
    if upright.mode in ("P", "1"):
        return numpy.array(upright).astype(numpy.uint8, copy=False)
    if upright.mode == "L":
        values = numpy.array(upright)
        if most not in (None, 255):
            return numpy.rint(values * (most / 255)).astype(numpy.uint8)
        return values // (255 // (2**depth - 1)) if depth in (2, 4) else values
    if upright.mode.startswith("I"):
        values = _integers(upright, "numbers", unsigned)
        return values if most in (None, _MOST) else numpy.rint(values * (most / _MOST)).astype(numpy.uint16)
    if upright.mode == "F":
        values = numpy.array(upright)
        if not _are_integers(values, _MOST):
            raise NoMeaning("this mask holds floating point numbers, and not all of them are integers from 0 to 65535")
        return values.astype(numpy.uint16)
    return _of_channels(upright)


def _deep_colours(image: Any) -> NDArray[numpy.uint16] | None:
    """Colours of 16 bits, of which Pillow returns 8: of a TIFF, read twice, the upper bytes and the lower; of a PPM.

    Shape: [H, W, 3 or 4]; None if the image has no such colours.
    """
    from PIL import Image

    arguments = image.tile[0][3] if image.tile else None
    raw = arguments[0] if isinstance(arguments, tuple) else arguments
    if image.format == "PPM" and image.mode == "RGB" and isinstance(arguments, tuple) and arguments[-1] > 255:
        return _portable_colours(image.fp.getvalue(), image.size, arguments[-1])
    if _tag(image, _BITS, 0) == 16 and _tag(image, _PLANES, 1) == 2 and image.mode != "I;16":
        raise NoMeaning("this TIFF stores colours of 16 bits in separate planes, which Pillow misreads")
    kind = re.fullmatch(r"(RGBA?|RGBX);16([LBN])", str(raw))
    if image.format != "TIFF" or kind is None:
        return None
    lower_first = Image.open(io.BytesIO(image.fp.getvalue()), formats=("TIFF",))
    upper_is_last = kind[2] == "L" or (kind[2] == "N" and sys.byteorder == "little")
    other = f"{kind[1]};16{'B' if upper_is_last else 'L'}"
    lower_first.tile = [
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other) for tile in lower_first.tile
    ]
    upper, lower = (numpy.array(_upright(half)).astype(numpy.uint16) for half in (image, lower_first))
    return numpy.bitwise_or(upper << numpy.uint16(8), lower)


def _portable_colours(content: bytes, size: tuple[int, int], most: int) -> NDArray[numpy.uint16] | None:
    header = re.match(rb"P6(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+\s", content[:4096])
    if header is None:
        return None
    values = numpy.frombuffer(content, ">u2", size[0] * size[1] * 3, header.end()).reshape(size[1], size[0], 3)
    return numpy.rint(values * (_MOST / most)).astype(numpy.uint16)


def _upright(image: Any) -> Any:
    """The image as its EXIF data turns it."""
    from PIL import ImageOps

    forget_texts(image)
    return ImageOps.exif_transpose(image)


def _refuse_bands(image: Any, mode: str) -> None:
    """More bands than colours and opacity, of which Pillow would drop the last ones, or take a fourth for no opacity."""
    samples, colours = _tag(image, _SAMPLES, 1), _COLOURS.get(_tag(image, _PHOTOMETRIC, 1), 3)
    if samples > colours + 1:
        raise NoMeaning(f"this TIFF has {samples} bands, of which {colours} can be its colours and one its opacity")
    if samples == colours + 1 and mode == "rgba" and _EXTRA in getattr(image, "tag_v2", {}) and not _tag(image, _EXTRA, 0):
        raise NoMeaning(f"this TIFF has {samples} bands and does not say that the last is its opacity")


def _tag(image: Any, number: int, default: int) -> int:
    """A tag of a TIFF, the first of several values."""
    found = getattr(image, "tag_v2", {}).get(number, default)
    return int(found[0] if isinstance(found, tuple) and found else found or 0)


def _refuse_signed(image: Any) -> None:
    """Refuses signed bytes, which Pillow reads as unsigned."""
    signed = _tag(image, _SAMPLE_FORMAT, 1) == _SIGNED and _tag(image, _BITS, 0) == 8
    if signed and image.mode == "L" and int(numpy.array(image).max()) > 127:
        raise NoMeaning("this TIFF holds numbers below zero")


def _is_unsigned(image: Any) -> bool:
    """Whether 32 bits are unsigned, which Pillow reads as signed."""
    return image.mode == "I" and _tag(image, _BITS, 0) == 32 and _tag(image, _SAMPLE_FORMAT, 1) != _SIGNED


def _integers(image: Any, what: str, unsigned: bool) -> NDArray[numpy.uint16]:
    """Integers of 16 or 32 bits. Older versions of Pillow open 16 bits as 32."""
    values = numpy.array(image)
    values = values.view(numpy.uint32) if unsigned else values
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _MOST:
        raise NoMeaning(f"this image holds {what} from {low} to {high}, and only numbers from 0 to {_MOST} are supported")
    return values.astype(numpy.uint16)


def _are_integers(values: NDArray[numpy.floating], most: int) -> bool:
    """Whether floating point numbers are all integers from 0 to `most`; NaN is not."""
    with numpy.errstate(invalid="ignore"):  # signalling NaNs
        return bool(((values >= 0) & (values <= most) & (values == numpy.rint(values))).all())


def _floating_pixels(image: Any) -> NDArray[numpy.uint8]:
    values = numpy.array(image)
    if not _are_integers(values, 255) or values.max() == 1:
        low, high = float(values.min()), float(values.max())
        raise NoMeaning(f"this image holds floating point numbers, from {low:g} to {high:g}, which do not define white")
    return values.astype(numpy.uint8)


def _refuse_lossy(image: Any, content: bytes) -> None:
    in_tiff = _tag(image, _COMPRESSION, 1) in _JPEG_IN_TIFF
    in_webp = image.format == "WEBP" and b"VP8 " in content[:64]
    if image.format in ("JPEG", "MPO", "AVIF") or in_tiff or in_webp:
        codec = f"{image.format.replace('MPO', 'JPEG')} compression" if not in_tiff else "a TIFF with JPEG compression"
        raise NoMeaning(f"{codec} changes numbers along edges, so this mask no longer holds the classes that were drawn")


def _refuse_pages(image: Any) -> None:
    """Refuses several masks in a file; a TIFF may have smaller copies of itself, and a mask of valid pixels."""
    pages = getattr(image, "n_frames", 1)
    if pages == 1:
        return
    for page in range(1, pages):
        if image.format == "TIFF":
            image.seek(page)
        if image.format != "TIFF" or not _tag(image, _SUBFILE, 0) & _REDUCED_OR_MASK:
            raise NoMeaning(f"this mask has {pages} pages or frames; store one image per file")
    image.seek(0)


def _grey_depth(image: Any, content: bytes) -> int:
    """Bits of a grey pixel, if Pillow has stretched fewer of them to 8."""
    if image.format == "PNG" and content[25:26] == b"\0":  # grey: PNG specification, 11.2.1
        return content[24]
    return _tag(image, _BITS, 8) if image.format == "TIFF" else 8


def _portable_most(content: bytes) -> int | None:
    """The largest number of a PGM, to which Pillow has scaled all."""
    header = re.match(rb"P[25](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)\s", content[:4096])
    return int(header[1]) if header else None


def _of_channels(image: Any) -> NDArray[numpy.uint8]:
    """The number that is equal in all channels of each pixel, if none is transparent."""
    values = numpy.array(image.convert("LA") if image.mode == "La" else image)
    if image.mode in ("LA", "La", "RGBA"):
        if int(values[..., -1].min()) < 255:
            raise NoMeaning("this mask has transparent pixels, which have no class")
        values = values[..., :-1]
    elif image.mode != "RGB":
        raise NoMeaning(f"a mask has one number per pixel, its class, but this image has the channels {image.mode}")
    if bool((values != values[..., :1]).any()):
        raise NoMeaning(f"a mask has one number per pixel, its class, but this image has the channels {image.mode}")
    return numpy.ascontiguousarray(values[..., 0])
