"""Drawing on images what is known or predicted of them: masks as colours, boxes with labels, words in bands."""

import colorsys
from collections.abc import Sequence

import numpy
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont
from torch import Tensor

Colour = tuple[int, int, int]

# Okabe and Ito, Color Universal Design, 2008: told apart by colour-blind eyes too; grey first, as class 0 is often background.
_FIRST = (
    (130, 130, 130),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_GOLDEN_ANGLE = 0.381966
_IGNORED: Colour = (20, 20, 20)
_OPACITY = 0.5
_MASK_OPACITY = 0.65
ELLIPSIS = "…"


def colour(number: int) -> Colour:
    """The colour of a class, the same in every picture: any two neighbouring numbers differ clearly."""
    if number < len(_FIRST):
        return _FIRST[number]
    hue = (number * _GOLDEN_ANGLE) % 1
    light, depth = (0.95, 0.85) if number % 2 else (0.65, 0.6)
    red, green, blue = colorsys.hsv_to_rgb(hue, depth, light)
    return round(255 * red), round(255 * green), round(255 * blue)


def font(pixels: int) -> FreeTypeFont:
    """Pillow's own, so that pictures look the same on every machine."""
    found = ImageFont.load_default(pixels)
    assert isinstance(found, FreeTypeFont), "Pillow was built without FreeType"
    return found


def text_width(text: str, face: FreeTypeFont) -> int:
    return int(-(-face.getlength(text) // 1))


def shortened(text: str, face: FreeTypeFont, width: int) -> str:
    """As much of a text as fits, with an ellipsis where it was cut."""
    if text_width(text, face) <= width:
        return text
    for length in range(len(text) - 1, -1, -1):
        cut = text[:length].rstrip(" ,") + ELLIPSIS
        if text_width(cut, face) <= width:
            return cut
    return ""


def picture(image: Tensor) -> Image.Image:
    """An image for the eye: grey and colour as they are, opacity left out, of other channels the first.

    Shape: [C, H, W] between 0 and 1.
    """
    shown = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    pixels = shown.detach().float().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Enlarged so that its pixels can be seen, or made smaller; to (width, height)."""
    if size == image.size:
        return image
    larger = size[0] >= image.width
    return image.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)


def with_mask(image: Image.Image, mask: Tensor, classes: int) -> Image.Image:
    """Every class in its colour over the image in grey; what counts for nothing nearly black.

    Args:
        mask: [H, W] of class numbers, of the image's size; numbers from `classes` on count for nothing.
    """
    numbers = mask.cpu().numpy()
    table = numpy.array([*(colour(number) for number in range(classes)), _IGNORED], dtype=numpy.float32)
    over = table[numpy.where((numbers >= 0) & (numbers < classes), numbers, classes)]  # [H, W, 3]
    grey = numpy.asarray(image.convert("L").convert("RGB"), dtype=numpy.float32)
    mixed = grey * (1 - _MASK_OPACITY) + over * _MASK_OPACITY
    return Image.fromarray(mixed.round().astype(numpy.uint8))


def with_instances(image: Image.Image, masks: Tensor, labels: Sequence[int]) -> Image.Image:
    """Each instance in the colour of its class over the image (as `draw_boxes`).

    Args:
        masks: bool [n, H, W], of the image's size.
    """
    pixels = numpy.array(image, dtype=numpy.float32)
    for mask, label in zip(masks.cpu().numpy(), labels, strict=True):
        pixels[mask] = pixels[mask] * (1 - _OPACITY) + numpy.array(colour(label + 1), dtype=numpy.float32) * _OPACITY
    return Image.fromarray(pixels.round().astype(numpy.uint8))


def draw_boxes(image: Image.Image, boxes: Sequence[Sequence[float]], labels: Sequence[int], names: Sequence[str]) -> None:
    """Boxes (left, top, right, bottom in the image's pixels) with a name each, in place.

    Class n has the colour n + 1: there is no background among boxes, for which the grey is.
    """
    draw, face = ImageDraw.Draw(image), font(12)
    height = 15
    rounded = [[round(side) for side in box] for box in boxes]
    for (left, top, right, bottom), label in zip(rounded, labels, strict=True):
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour(label + 1), width=2)
    for (left, top, _, _), label, name in zip(rounded, labels, names, strict=True):
        fill = colour(label + 1)
        text = shortened(name, face, image.width - 6)
        width = text_width(text, face) + 6
        x = min(max(0, left), max(0, image.width - width))
        y = top - height if top >= height else max(0, min(top, image.height - height))
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=fill)
        draw.text((x + 3, y + height // 2), text, fill=on(fill), font=face, anchor="lm")


def on(ground: Colour) -> Colour:
    """Black or white, whichever is read better on a colour (relative luminance: WCAG 2.1)."""
    red, green, blue = ((level / 255) ** 2.2 for level in ground)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)
