"""A mask over its image, outlined, with a legend of its classes below."""

from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from phalanx.data.inspect.drawing import colour, font, shortened, text_width
from phalanx.train.pictures.caption import drawn_size, viewable

_MARGIN, _GAP, _SWATCH, _ROW, _TEXT_SIZE = 12, 20, 14, 24, 15
_BACKGROUND, _TEXT, _QUIET = (24, 26, 31), (240, 240, 240), (158, 164, 175)
_OPACITY, _OUTLINE = 0.55, 0.95
_SATURATION = 0.2  # of the image that is kept, so that the colours over it look as in the legend


def with_overlay(image: Image.Image, mask: NDArray[numpy.integer], legend: Sequence[tuple[int, str, float]]) -> Image.Image:
    """The image with the colour of each pixel's class over it, stronger at the outlines; and a legend.

    Args:
        image: as it was read; RGB.
        mask: the class of each pixel, [H, W], of the image's size.
        legend: number, name and share of the pixels, of each class in the mask.
    """
    shown = viewable(image)
    small = Image.fromarray(mask.astype(numpy.int32)).resize(drawn_size(image, shown), Image.Resampling.NEAREST)
    classes = numpy.asarray(small)
    left = (shown.width - classes.shape[1]) // 2
    picture = shown.crop((left, 0, left + classes.shape[1], shown.height))
    shown.paste(_blended(picture, classes), (left, 0))
    rows = _rows(legend, shown.width - 2 * _MARGIN)
    canvas = Image.new("RGB", (shown.width, shown.height + 2 * _MARGIN + _ROW * len(rows)), _BACKGROUND)
    canvas.paste(shown, (0, 0))
    draw, face = ImageDraw.Draw(canvas), font(_TEXT_SIZE)
    for number, row in enumerate(rows):
        middle = shown.height + _MARGIN + number * _ROW + _ROW // 2
        for x, index, name, percent in row:
            top = middle - _SWATCH // 2
            draw.rounded_rectangle((x, top, x + _SWATCH - 1, top + _SWATCH - 1), 3, fill=colour(index))
            x += _SWATCH + 7
            draw.text((x, middle), name, _TEXT, face, anchor="lm")
            draw.text((x + text_width(name, face) + 6, middle), percent, _QUIET, face, anchor="lm")
    return canvas


def _blended(image: Image.Image, classes: NDArray[numpy.int32]) -> Image.Image:
    """The image with the classes' colours over it."""
    numbers, places = numpy.unique(classes, return_inverse=True)
    colours = numpy.array([colour(int(number)) for number in numbers], numpy.float32)
    over = colours[places.reshape(classes.shape)]  # [H, W, 3]
    opacity = numpy.where(outlines(classes), _OUTLINE, _OPACITY).astype(numpy.float32)[..., None]
    pixels = numpy.asarray(ImageEnhance.Color(image).enhance(_SATURATION), numpy.float32)
    return Image.fromarray((pixels * (1 - opacity) + over * opacity).round().astype(numpy.uint8))


def outlines(classes: NDArray[Any]) -> NDArray[numpy.bool_]:
    """Pixels with a neighbour, above, below, left or right, of another class."""
    found = numpy.zeros(classes.shape, bool)
    down, right = classes[1:] != classes[:-1], classes[:, 1:] != classes[:, :-1]
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def _rows(legend: Sequence[tuple[int, str, float]], available: int) -> list[list[tuple[int, int, str, str]]]:
    """The legend's entries, row by row: left edge, number of the class, name, percentage."""
    face = font(_TEXT_SIZE)
    rows: list[list[tuple[int, int, str, str]]] = [[]]
    x = _MARGIN
    for index, name, share in legend:
        percent = f"{share:.0%}" if share >= 0.01 else "<1%"
        around = _SWATCH + 7 + 6 + text_width(percent, face)
        name = shortened(name, face, max(0, available - around))
        width = around + text_width(name, face)
        if rows[-1] and x + width > _MARGIN + available:
            rows.append([])
            x = _MARGIN
        rows[-1].append((x, index, name, percent))
        x += width + _GAP
    return rows
