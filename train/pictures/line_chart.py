"""Lines over a common axis, such as the learning rate over steps."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from phalanx.data.inspect.drawing import Colour, font, shortened, text_width

_BACKGROUND, _GRID, _TEXT, _QUIET = (24, 26, 31), (58, 62, 71), (240, 240, 240), (158, 164, 175)
_COLOURS: tuple[Colour, ...] = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0))
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TITLE, _BOTTOM = 720, 320, 84, 24, 64, 56  # of the plot and around it, in pixels
_SMOOTH = 3  # supersampling factor of the lines
_TICKS = 6  # at most


class Line(NamedTuple):
    """A line of a chart: its name, and as many x as y. Points that are not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Axis:
    """Ticks at round numbers, and where a value lies between 0 and 1.

    Args:
        values: all that have to fit.
        zero: whether it begins at 0.
        log: whether it is logarithmic; all values are above 0 then.
    """

    def __init__(self, values: Iterable[float], zero: bool = False, log: bool = False):
        known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = (0.0 if zero and not log else min(known)), max(known)
        self._log = log
        if log:
            self._first, self._last = math.log10(low), math.log10(high)
            exponents = range(math.floor(self._first), math.ceil(self._last) + 1)
            self.ticks = [10.0**e for e in exponents if self._first - 1e-9 <= e <= self._last + 1e-9]
        else:
            high = high if high > low else low + 1.0
            step = _round_step((high - low) / (_TICKS - 1))
            self._first, self._last = low, high
            self.ticks = [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        self._last = self._last if self._last > self._first else self._first + 1.0

    def at(self, value: float) -> float:
        return ((math.log10(value) if self._log else value) - self._first) / (self._last - self._first)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below a step."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if power * factor >= least * (1 - 1e-9))


def line_chart(lines: Sequence[Line], title: str, x_name: str, y_name: str, log_x: bool = False) -> Image.Image:
    """The picture of lines, with a legend where there are several."""
    x = Axis((value for line in lines for value in line.x), log=log_x)
    y = Axis((value for line in lines for value in line.y), zero=all(v >= 0 for line in lines for v in line.y if v == v))
    canvas = Image.new("RGB", (_LEFT + _WIDTH + _RIGHT, _TITLE + _HEIGHT + _BOTTOM), _BACKGROUND)
    canvas.paste(_plot(lines, x, y), (_LEFT, _TITLE))
    draw = ImageDraw.Draw(canvas)
    draw.text((_LEFT, 20), shortened(title, font(16), canvas.width - _LEFT - _RIGHT), _TEXT, font(16), anchor="lm")
    _ticks(draw, x, y)
    draw.text((_LEFT + _WIDTH, _TITLE + _HEIGHT + 34), x_name, _TEXT, font(14), anchor="rt")
    draw.text((_LEFT, 46), y_name, _TEXT, font(14), anchor="lm")
    if len(lines) > 1:
        _legend(draw, [line.name for line in lines])
    return canvas


def _plot(lines: Sequence[Line], x: Axis, y: Axis) -> Image.Image:
    width, height = _WIDTH * _SMOOTH, _HEIGHT * _SMOOTH
    plot = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(plot)
    for tick in x.ticks:
        left = x.at(tick) * (width - _SMOOTH)
        draw.rectangle((left, 0, left + _SMOOTH - 1, height), _GRID)
    for tick in y.ticks:
        top = (1 - y.at(tick)) * (height - _SMOOTH)
        draw.rectangle((0, top, width, top + _SMOOTH - 1), _GRID)
    for number, line in enumerate(lines):
        points = [
            (x.at(a) * (width - 1), (1 - y.at(b)) * (height - 1))
            for a, b in zip(line.x, line.y, strict=True)
            if math.isfinite(a) and math.isfinite(b)
        ]
        draw.line(points, _COLOURS[number % len(_COLOURS)], 2 * _SMOOTH, joint="curve")
    return plot.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)


def _ticks(draw: ImageDraw.ImageDraw, x: Axis, y: Axis) -> None:
    face = font(13)
    for tick in x.ticks:
        draw.text((_LEFT + x.at(tick) * (_WIDTH - 1), _TITLE + _HEIGHT + 8), f"{tick:.6g}", _QUIET, face, anchor="mt")
    for tick in y.ticks:
        draw.text((_LEFT - 8, _TITLE + (1 - y.at(tick)) * (_HEIGHT - 1)), f"{tick:.4g}", _QUIET, face, anchor="rm")


def _legend(draw: ImageDraw.ImageDraw, names: Sequence[str]) -> None:
    """On the right above the plot, from right to left."""
    right = float(_LEFT + _WIDTH)
    for number, name in reversed(list(enumerate(names))):
        draw.text((right, 46), name, _QUIET, font(13), anchor="rm")
        right -= text_width(name, font(13)) + 8
        draw.rectangle((right - 16, 44, right, 47), _COLOURS[number % len(_COLOURS)])
        right -= 30
