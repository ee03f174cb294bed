"""A line chart as SVG, which needs no script: curves of several runs over their steps, marks where they were resumed."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from phalanx.train.pictures.line_chart import Axis

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 240, 64, 14, 10, 26  # of the picture and around the plot
_BUCKETS = 300  # of which the lowest and the highest point are drawn

Values = Mapping[int, float]


class Curve(NamedTuple):
    """A run's values of a metric by step.

    Attributes:
        number: of the run, which chooses its colour and dashes.
        marks: steps at which it was resumed.
    """

    run: str
    number: int
    values: Values
    marks: Sequence[int] = ()


def thinned(values: Values, buckets: int = _BUCKETS) -> list[tuple[int, float]]:
    """Points that look like all of them: of each bucket of steps the lowest and the highest; finite ones only."""
    points = sorted((step, value) for step, value in values.items() if math.isfinite(value))
    if len(points) <= 2 * buckets:
        return points
    first, span = points[0][0], points[-1][0] - points[0][0]
    chosen: dict[int, list[tuple[int, float]]] = {}
    for point in points:
        chosen.setdefault((point[0] - first) * buckets // (span + 1), []).append(point)
    kept = {points[0], points[-1]}
    for bucket in chosen.values():
        kept |= {min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])}
    return sorted(kept)


def chart(metric: str, curves: Sequence[Curve]) -> Markup:
    """The chart of a metric; curves without points are left out. Empty if there is none."""
    points = {curve.number: thinned(curve.values) for curve in curves}
    having = [curve for curve in curves if points[curve.number]]
    if not having:
        return Markup("")
    x = Axis([step for curve in having for step, _ in points[curve.number]] + [0])
    y = Axis([value for curve in having for _, value in points[curve.number]])
    parts = [_grid(x, y)]
    for curve in having:
        parts += [_mark(curve, step, x) for step in curve.marks]
        parts.append(_curve(curve, points[curve.number], x, y))
    told = [
        {"run": curve.run, "number": curve.number, "points": points[curve.number], "at": _places(points[curve.number], x, y)}
        for curve in having
    ]
    label = f"{metric} over steps. " + " ".join(_described(curve) for curve in having)
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" tabindex="0" aria-label="{}" data-curves="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, label, json.dumps(told), Markup("").join(parts))


def _described(curve: Curve) -> str:
    """For who does not see it."""
    known = {step: value for step, value in curve.values.items() if math.isfinite(value)}
    low, high, last = min(known, key=known.__getitem__), max(known, key=known.__getitem__), max(known)
    return (
        f"{curve.run}: {known[last]:.4g} at step {last}; lowest {known[low]:.4g} at step {low}, highest {known[high]:.4g} at "
        f"step {high}."
    )


def _across(x: Axis, step: float) -> float:
    return _LEFT + x.at(step) * (_WIDTH - _LEFT - _RIGHT)


def _down(y: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - y.at(value) * (_HEIGHT - _TOP - _BOTTOM)


def _places(points: Sequence[tuple[int, float]], x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [(round(_across(x, step), 1), round(_down(y, value), 1)) for step, value in points]


def _curve(curve: Curve, points: Sequence[tuple[int, float]], x: Axis, y: Axis) -> Markup:
    places = _places(points, x, y)
    if len(places) == 1:
        ((across, down),) = places
        return Markup('<circle class="dot run{}" cx="{}" cy="{}" r="3"/>').format(curve.number % 6, across, down)
    listed = " ".join(f"{across},{down}" for across, down in places)
    return Markup('<polyline class="curve run{}" points="{}"/>').format(curve.number % 6, listed)


def _mark(curve: Curve, step: int, x: Axis) -> Markup:
    across = round(_across(x, step), 1)
    return Markup('<line class="mark run{}" x1="{}" x2="{}" y1="{}" y2="{}"><title>{}</title></line>').format(
        curve.number % 6, across, across, _TOP, _HEIGHT - _BOTTOM, f"{curve.run} was resumed at step {step}"
    )


def _grid(x: Axis, y: Axis) -> Markup:
    lines = []
    for tick in y.ticks:
        down = round(_down(y, tick), 1)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{down}" y2="{down}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{down + 4}" text-anchor="end">{escape(_short(tick))}</text>')
    for tick in x.ticks:
        across = round(_across(x, tick), 1)
        lines.append(f'<text x="{across}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(_short(tick))}</text>')
    return Markup("".join(lines))  # numbers only


def _short(value: float) -> str:
    if abs(value) >= 10_000 and value % 1000 == 0:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"
