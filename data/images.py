"""Decoding: from a file to the tensor of an image, or of a mask of class indices."""

import io
import re
from typing import Any

import numpy
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg, decode_png

from phalanx.data.bad_sample import unreadable
from phalanx.data.modes import Mode, in_mode

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_END = b"\xff\xd9"
_FROM_TORCHVISION = re.compile(r"^.*\.cpp:\d+, ")  # where in its source
# A side of one pixel is what is left of a failed download, or a tracking pixel: it would be stretched to a flat colour.
_SMALLEST_SIDE = 2


def is_image_name(name: str) -> bool:
    """Whether a file's name says that it is an image: no hidden file, a known suffix."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def read_image(path: str, mode: Mode) -> Tensor:
    """An image file, turned upright as its EXIF orientation says.

    What a file is its first bytes say, not its name. torchvision decodes JPEG, and PNG of 16 bits a colour; Pillow the rest,
    PNG too, in the same time: it tells a broken file where torchvision 0.29 crashes.

    Returns:
        uint8 `[1, 3 or 4, H, W]`; uint16 where the file has 16 bits a channel.

    Raises:
        Unreadable: where there is no such file, it holds no whole image, or one with a side of a single pixel.
    """
    content = _content(path)
    try:
        image = _decoded(content, mode)
    except Exception as error:  # a broken file makes decoders raise all there is, such as SyntaxError
        raise unreadable(path, _problem(content, error)) from None
    if min(image.shape[1:]) < _SMALLEST_SIDE:
        raise unreadable(path, f"this image is {image.shape[2]} x {image.shape[1]} pixels, too small to show anything")
    return image


def read_mask(path: str) -> Tensor:
    """A mask: the number that is stored for each pixel, of a palette or a grey image.

    Returns:
        uint8 or uint16 `[H, W]`.

    Raises:
        Unreadable: where there is no such file, it holds no whole image, or one with colours instead of numbers.
    """
    content = _content(path)
    try:
        image = _open_with_pillow(content)
        image.load()
    except Exception as error:
        raise unreadable(path, _problem(content, error)) from None
    if image.mode in ("P", "L", "1"):
        return torch.from_numpy(numpy.array(image).astype(numpy.uint8, copy=False))
    if image.mode.startswith("I"):  # I;16, I;16B, and I, in which older versions of Pillow open 16 bits
        return torch.from_numpy(numpy.array(image).astype(numpy.uint16))
    raise unreadable(
        path,
        f"a mask has one number a pixel, its class, but this image has the channels {image.mode}",
        "Store class indices, as a grey or palette PNG.",
    )


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        raise unreadable(path, "there is no such file" if gone else f"it cannot be read: {error.strerror}") from None
    if not content:
        raise unreadable(path, "the file is empty")
    return content


def _decoded(content: bytes, mode: Mode) -> Tensor:
    if content.startswith(_JPEG):
        return _decoded_jpeg(content, mode)
    if content.startswith(_PNG) and _is_deep_colour(content):
        _open_with_pillow(content).verify()  # torchvision 0.29 crashes where the checksum of a PNG is wrong
        return in_mode(decode_png(_as_tensor(content), ImageReadMode.UNCHANGED, apply_exif_orientation=True), mode)
    return _decoded_by_pillow(content, mode)


def _is_deep_colour(content: bytes) -> bool:
    """Whether a PNG has 16 bits a channel and more than one channel, which Pillow would cut to 8 bits."""
    depth_and_colour = content[24:26]  # PNG specification, 11.2.1
    return depth_and_colour[:1] == b"\x10" and depth_and_colour[1:] != b"\x00"


def _decoded_jpeg(content: bytes, mode: Mode) -> Tensor:
    # libjpeg fills what is missing with grey, and torchvision says nothing of it.
    if content.find(_JPEG_END, _start_of_scan(content)) < 0:
        raise ValueError("it ends too early")
    wanted = ImageReadMode.GRAY if mode == "grey" else ImageReadMode.RGB
    return in_mode(decode_jpeg(_as_tensor(content), wanted, apply_exif_orientation=True), mode)


def _start_of_scan(content: bytes) -> int:
    """Where the pixels of a JPEG begin, after segments that may hold anything, such as a thumbnail (ITU-T T.81, B.1.1)."""
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return place


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _open_with_pillow(content: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(content))


def _decoded_by_pillow(content: bytes, mode: Mode) -> Tensor:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(_open_with_pillow(content))
    if image.mode.startswith("I"):
        return in_mode(torch.from_numpy(numpy.array(image).astype(numpy.uint16)).unsqueeze(0), mode)
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    pixels = torch.from_numpy(numpy.array(image))  # [H, W] or [H, W, C]
    pixels = pixels.unsqueeze(2) if pixels.ndim == 2 else pixels
    return in_mode(pixels.permute(2, 0, 1).contiguous(), mode)


def _problem(content: bytes, error: Exception) -> str:
    """What is wrong with a file that no decoder could read."""
    known = content.startswith((_JPEG, _PNG))
    if type(error).__name__ == "UnidentifiedImageError":
        return "this file is no image"
    reason = _FROM_TORCHVISION.sub("", " ".join(str(error).split())).rstrip(".") or type(error).__name__
    return f"this {'JPEG' if content.startswith(_JPEG) else 'PNG' if known else 'image'} cannot be decoded ({reason})"
