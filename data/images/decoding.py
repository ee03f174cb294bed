"""Decoding: from a file to the tensor of an image, or of a mask of class indices."""

import errno
import os
import re
import stat
from typing import Literal

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, decode_png

from phalanx.configs.sections.data import MAX_PIXELS
from phalanx.data.bad_sample import unreadable
from phalanx.data.images.bands import decode_bands, is_banded
from phalanx.data.images.deep_png import check_pixels
from phalanx.data.images.image_formats import (
    JPEG,
    PNG,
    BrokenImage,
    TooLarge,
    is_deep_colour,
    jpeg_size,
    opened,
    png_size,
    refuse_too_large,
    unknown,
)
from phalanx.data.images.modes import Mode, in_mode
from phalanx.data.images.number_formats import NoMeaning, classes_of, pixels_of

_OF_DECODERS = (BrokenImage, OSError, SyntaxError, RuntimeError)
_JPEG_END = b"\xff\xd9"
_FROM_TORCHVISION = re.compile(r"^.*\.cpp:\d+, ")  # location in its source
# A side of one pixel comes from a failed download or a tracking pixel: it would be stretched to a flat colour.
_SMALLEST_SIDE = 2


def read_image(path: str, mode: Mode | Literal["bands"], max_pixels: int = MAX_PIXELS) -> Tensor:
    """Reads an image file, upright by its EXIF orientation; of several pages or frames the first.

    The format is detected from the first bytes, not from the name. torchvision decodes JPEG, and PNG of 16 bits per colour;
    Pillow the rest, as fast for PNG: it reports broken files where torchvision 0.29 crashes. No decoder starts before the
    size in the header is known to be at most `max_pixels`.

    With the mode `bands` NumPy arrays and TIFF keep all of their bands, as `decode_bands` reads them, and other images theirs.

    Returns:
        uint8 `[channels, H, W]`; uint16 if the file has 16 bits per channel; float32 of bands of other numbers.

    Raises:
        Unreadable: if there is no such file, or it is not a complete image, is too large, has a side of a single pixel, or
            numbers that are not colours.
    """
    content = _content(path)
    try:
        if mode == "bands":
            image = decode_bands(content, max_pixels) if is_banded(content) else _decoded(content, None, max_pixels)
        else:
            image = _decoded(content, mode, max_pixels)
    except Exception as error:  # a broken file makes decoders raise any exception, such as SyntaxError
        raise _explained(path, content, error, "Store integers of 8 or 16 bits, for example as PNG.") from None
    if min(image.shape[1:]) < _SMALLEST_SIDE:
        raise unreadable(path, f"this image is {image.shape[2]} x {image.shape[1]} pixels, too small to show anything")
    return image


def read_mask(path: str, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Reads a mask: the stored number of each pixel, of a palette or grey image, or of colours with equal channels.

    Returns:
        uint8 or uint16 `[H, W]`.

    Raises:
        Unreadable: if there is no such file, or it is not a complete image, is too large, or has colours instead of
            numbers.
    """
    content = _content(path)
    try:
        with opened(content, max_pixels) as image:
            return torch.from_numpy(classes_of(image, content))
    except Exception as error:
        raise _explained(path, content, error, "Store class indices, as a grey or palette PNG.") from None


def _content(path: str) -> bytes:
    try:
        with open(path, "rb", opener=_open_regular) as file:
            content = file.read()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        raise unreadable(path, "there is no such file" if gone else f"it cannot be read: {error.strerror}") from None
    if not content:
        raise unreadable(path, "the file is empty")
    return content


def _open_regular(path: str, flags: int) -> int:
    """Opens only a regular file: reading a pipe would block, and a device may have no end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def _decoded(content: bytes, mode: Mode | None, max_pixels: int) -> Tensor:
    """The image in a mode; None: with the channels that it has."""
    if content.startswith(JPEG):
        return _decoded_jpeg(content, mode, max_pixels)
    if is_deep_colour(content):
        refuse_too_large(*png_size(content), max_pixels)
        with opened(content, max_pixels) as image:
            image.verify()  # torchvision 0.29 crashes on a wrong checksum in a PNG
        check_pixels(content)
        return _converted(decode_png(_as_tensor(content), ImageReadMode.UNCHANGED, apply_exif_orientation=True), mode)
    with opened(content, max_pixels) as image:
        pixels = torch.from_numpy(pixels_of(image, mode or "rgba"))  # [H, W] or [H, W, C]
    pixels = pixels.unsqueeze(2) if pixels.ndim == 2 else pixels
    return _converted(pixels.permute(2, 0, 1).contiguous(), mode)


def _converted(image: Tensor, mode: Mode | None) -> Tensor:
    return image if mode is None else in_mode(image, mode)


def _decoded_jpeg(content: bytes, mode: Mode | None, max_pixels: int) -> Tensor:
    width, height, first_scan = jpeg_size(content)
    refuse_too_large(width, height, max_pixels)
    # libjpeg fills missing parts with grey, and torchvision does not report it.
    if content.find(_JPEG_END, first_scan) < 0:
        raise BrokenImage("it ends too early")
    wanted = {"grey": ImageReadMode.GRAY, None: ImageReadMode.UNCHANGED}.get(mode, ImageReadMode.RGB)
    return _converted(decode_jpeg(_as_tensor(content), wanted, apply_exif_orientation=True), mode)


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _explained(path: str, content: bytes, error: Exception, remedy: str) -> Exception:
    """The error of a file that could not be read."""
    if isinstance(error, TooLarge):
        return unreadable(path, str(error), "Raise data.max_pixels if this size is intended, else replace it.")
    if isinstance(error, NoMeaning):
        return unreadable(path, str(error), remedy)
    if type(error).__name__ == "UnidentifiedImageError":
        return unreadable(path, unknown(content))
    reason = _FROM_TORCHVISION.sub("", " ".join(str(error).split())).rstrip(".")
    if not reason or not isinstance(error, _OF_DECODERS):
        reason = "its content is broken"  # Python's own message does not describe the file
    kind = "JPEG" if content.startswith(JPEG) else "PNG" if content.startswith(PNG) else "image"
    return unreadable(path, f"this {kind} cannot be decoded ({reason})")
