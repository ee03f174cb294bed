"""Precision-recall curves: one line per class, and their mean."""

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from phalanx.data.inspect.drawing import Colour, colour, font, shortened, text_width

Floats = NDArray[numpy.float64]

_BACKGROUND, _GRID, _TEXT, _QUIET = (24, 26, 31), (58, 62, 71), (240, 240, 240), (158, 164, 175)
_SIDE, _MARGIN, _LEFT, _BOTTOM = 440, 20, 62, 54  # of the plot, in pixels
_TITLE, _ROW, _LEGEND = 44, 20, 250
_LISTED = 20  # classes in the legend
_SMOOTH = 3  # supersampling factor of the lines


def precision_recall(recalls: Floats, precision: Floats, names: Sequence[str], title: str) -> Image.Image:
    """The curves of classes and their mean, with a legend by descending average precision; of many it lists the first and last.

    Args:
        recalls: [R], ascending from 0 to 1.
        precision: [R, K]; negative for a class without objects, which is left out.
        names: the classes' names.
    """
    known = [label for label in range(len(names)) if precision[0, label] >= 0]
    ranked = sorted(known, key=lambda label: -precision[:, label].mean())
    lines = [(precision[:, label], colour(label + 1), 1.5) for label in ranked]
    if known:
        lines.append((precision[:, known].mean(axis=1), _TEXT, 3.0))
    canvas = Image.new("RGB", (_LEFT + _SIDE + _MARGIN + _LEGEND, _TITLE + _SIDE + _BOTTOM), _BACKGROUND)
    canvas.paste(_plot(recalls, lines), (_LEFT, _TITLE))
    draw = ImageDraw.Draw(canvas)
    draw.text((_LEFT, _TITLE // 2), shortened(title, font(16), canvas.width - _LEFT - _MARGIN), _TEXT, font(16), anchor="lm")
    _axes(draw)
    _legend(draw, [(names[label], float(precision[:, label].mean()), colour(label + 1)) for label in ranked])
    return canvas


def _plot(recalls: Floats, lines: Sequence[tuple[Floats, Colour, float]]) -> Image.Image:
    """The grid, and over it lines of a colour and a width, the last on top."""
    side = _SIDE * _SMOOTH
    plot = Image.new("RGB", (side, side), _BACKGROUND)
    draw = ImageDraw.Draw(plot)
    for step in range(6):
        at = round(step * (side - _SMOOTH) / 5)
        draw.rectangle((at, 0, at + _SMOOTH - 1, side), _GRID)
        draw.rectangle((0, at, side, at + _SMOOTH - 1), _GRID)
    for precision, line, width in lines:
        points = [(r * (side - 1), (1 - p) * (side - 1)) for r, p in zip(recalls.tolist(), precision.tolist(), strict=True)]
        draw.line(points, line, round(width * _SMOOTH), joint="curve")
    return plot.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def _axes(draw: ImageDraw.ImageDraw) -> None:
    face, bottom = font(13), _TITLE + _SIDE
    for step in range(6):
        along = round(step * (_SIDE - 1) / 5)
        draw.text((_LEFT + along, bottom + 8), f"{step / 5:.1f}", _QUIET, face, anchor="mt")
        draw.text((_LEFT - 8, bottom - 1 - along), f"{step / 5:.1f}", _QUIET, face, anchor="rm")
    draw.text((_LEFT + _SIDE // 2, bottom + 30), "recall", _TEXT, font(14), anchor="mt")
    turned = Image.new("L", (text_width("precision", font(14)) + 2, 20))
    ImageDraw.Draw(turned).text((1, 10), "precision", 255, font(14), anchor="lm")
    upright = turned.rotate(90, expand=True)
    draw.bitmap((6, _TITLE + (_SIDE - upright.height) // 2), upright, _TEXT)


def _legend(draw: ImageDraw.ImageDraw, ranked: Sequence[tuple[str, float, Colour]]) -> None:
    """The mean, and the classes from the best on; of many, those in the middle are left out."""
    left, right = _LEFT + _SIDE + _MARGIN, _LEFT + _SIDE + _LEGEND
    if not ranked:
        draw.text((left, _TITLE + 8), "no objects of any class", _QUIET, font(13), anchor="lm")
        return
    mean = sum(value for _, value, _ in ranked) / len(ranked)
    rows: list[tuple[str, float | None, Colour | None]] = [("mean of the classes", mean, _TEXT)]
    rows += ranked if len(ranked) <= _LISTED else ranked[: _LISTED // 2]
    if len(ranked) > _LISTED:
        rows += [(f"and {len(ranked) - _LISTED} between", None, None), *ranked[-_LISTED // 2 :]]
    for number, (name, value, line) in enumerate(rows):
        y = _TITLE + 8 + number * _ROW
        if line is not None:
            draw.rectangle((left, y - 2, left + 15, y + 1), line)
        draw.text(
            (left + 23, y), shortened(name, font(13), right - left - 23 - 45), _TEXT if line else _QUIET, font(13), anchor="lm"
        )
        if value is not None:
            draw.text((right, y), f"{value:.3f}", _QUIET, font(13), anchor="rm")
