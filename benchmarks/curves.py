"""Curves as an SVG picture, for a page."""

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _LEGEND = 460, 280, 50, 30, 46, 210
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's, told apart by all
_STEPS = 5


def svg(series: Mapping[str, Sequence[tuple[float, float]]], title: str, along: str) -> str:
    """Lines of (x, y) by name; y from 0 to 1.

    Args:
        along: what x is.
    """
    longest = max((x for points in series.values() for x, _ in points), default=1.0) or 1.0
    step = _nice(longest / _STEPS)
    most = step * math.ceil(longest / step)
    total = (_LEFT + _WIDTH + _LEGEND, _TOP + _HEIGHT + _BOTTOM)
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}" width="{total[0]}" height="{total[1]}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{total[0]}" height="{total[1]}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="{_LEFT + _WIDTH / 2}" y="{total[1] - 8}" text-anchor="middle">{escape(along)}</text>',
    ]
    for number in range(_STEPS + 1):
        y = _TOP + _HEIGHT * (1 - number / _STEPS)
        found.append(f'<line x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        found.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number / _STEPS:.1f}</text>')
    for number in range(round(most / step) + 1):
        x = _LEFT + _WIDTH * number * step / most
        found.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + _HEIGHT}" stroke="#dddddd"/>')
        found.append(f'<text x="{x:.1f}" y="{_TOP + _HEIGHT + 16}" text-anchor="middle">{number * step:g}</text>')
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = " ".join(f"{_LEFT + _WIDTH * x / most:.1f},{_TOP + _HEIGHT * (1 - y):.1f}" for x, y in points)
        found.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = _TOP + 10 + 20 * number
        left = _LEFT + _WIDTH + 16
        found.append(f'<line x1="{left}" x2="{left + 18}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="3"/>')
        found.append(f'<text x="{left + 26}" y="{y}">{escape(name)}</text>')
    return "\n".join([*found, "</svg>"]) + "\n"


def _nice(step: float) -> float:
    """1, 2 or 5 times a power of ten, not less than a step."""
    power = 10.0 ** math.floor(math.log10(max(step, 1e-9)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step)
