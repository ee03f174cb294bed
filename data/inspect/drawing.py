"""Drawing annotations and predictions on images: masks as colours, boxes with labels, captions."""

import colorsys
from collections.abc import Sequence

import numpy
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont
from torch import Tensor

Colour = tuple[int, int, int]
_Corners = tuple[int, int, int, int]  # left, top, right, bottom

# Okabe and Ito, Color Universal Design, 2008: clear to colour-blind people too; grey first, as class 0 is often background.
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
_NAME_SIZE, _NAME_HEIGHT, _NAME_MARGIN = 12, 15, 3  # of a box, in pixels
ELLIPSIS = "…"


def colour(number: int) -> Colour:
    """The colour of a class, the same in every picture: neighbouring numbers differ clearly."""
    if number < len(_FIRST):
        return _FIRST[number]
    hue = (number * _GOLDEN_ANGLE) % 1
    light, depth = (0.95, 0.85) if number % 2 else (0.65, 0.6)
    red, green, blue = colorsys.hsv_to_rgb(hue, depth, light)
    return round(255 * red), round(255 * green), round(255 * blue)


def font(pixels: int) -> FreeTypeFont:
    """Pillow's own font, so that pictures are the same on every machine."""
    found = ImageFont.load_default(pixels)
    assert isinstance(found, FreeTypeFont), "Pillow was built without FreeType"
    return found


def text_width(text: str, face: FreeTypeFont) -> int:
    return int(-(-face.getlength(text) // 1))


def shortened(text: str, face: FreeTypeFont, width: int) -> str:
    """As much of a text as fits, with an ellipsis if it was cut."""
    if text_width(text, face) <= width:
        return text
    for length in range(len(text) - 1, -1, -1):
        cut = text[:length].rstrip(" ,") + ELLIPSIS
        if text_width(cut, face) <= width:
            return cut
    return ""


def picture(image: Tensor) -> Image.Image:
    """A viewable image: grey and colour unchanged, without opacity; of other channels the first.

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
    """Every class in its colour over the image in grey; ignored pixels nearly black.

    Args:
        mask: [H, W] of class numbers, of the image's size; numbers from `classes` on are ignored.
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
    """Boxes (left, top, right, bottom in the image's pixels) with names, in place; earlier ones on top.

    Class n has the colour n + 1: boxes have no background, whose colour is grey. A name that does not fit
    beside those before it is left out.
    """
    draw, face = ImageDraw.Draw(image), font(_NAME_SIZE)
    rounded = [(round(left), round(top), round(right), round(bottom)) for left, top, right, bottom in boxes]
    for (left, top, right, bottom), label in reversed(list(zip(rounded, labels, strict=True))):
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour(label + 1), width=2)
    taken: list[_Corners] = []
    for box, label, name in zip(rounded, labels, names, strict=True):
        text = shortened(name, face, image.width - 2 * _NAME_MARGIN)
        place = _name_place(box, (text_width(text, face) + 2 * _NAME_MARGIN, _NAME_HEIGHT), image.size, taken)
        if place is None:
            continue
        taken.append(place)
        left, top, right, bottom = place
        draw.rectangle((left, top, right - 1, bottom - 1), fill=colour(label + 1))
        draw.text((left + _NAME_MARGIN, top + _NAME_HEIGHT // 2), text, fill=on(colour(label + 1)), font=face, anchor="lm")


def _name_place(box: _Corners, size: tuple[int, int], image: tuple[int, int], taken: Sequence[_Corners]) -> _Corners | None:
    """Where a name of some width and height fits at a box: above it, in its corners, below it; None if nowhere."""
    width, height = size
    left, top, right, bottom = box
    places = [(left, top - height), (left, top), (left, bottom), (right - width, top - height), (left, bottom - height)]
    for x, y in places:
        x = min(max(0, x), max(0, image[0] - width))
        if y < 0 or y + height > image[1]:
            continue
        place = (x, y, x + width, y + height)
        if not any(_overlap(place, other) for other in taken):
            return place
    return None


def _overlap(one: _Corners, other: _Corners) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def on(ground: Colour) -> Colour:
    """Black or white, whichever is read better on a colour (relative luminance: WCAG 2.1)."""
    red, green, blue = ((level / 255) ** 2.2 for level in ground)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)
