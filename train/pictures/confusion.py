"""The confusion matrix as a picture: true classes in rows, predicted ones in columns."""

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from phalanx.data.inspect.drawing import Colour, font, on, shortened, text_width

_BACKGROUND, _TEXT, _QUIET = (24, 26, 31), (240, 240, 240), (158, 164, 175)
_LOW, _RIGHT, _WRONG = (38, 42, 50), (74, 158, 255), (230, 159, 0)  # the diagonal is right
_LARGEST, _ROOM, _SMALLEST_CELL, _LARGEST_CELL = 40, 900, 16, 48
_NAME, _MARGIN, _TITLE = 150, 16, 60
_COUNTS_FROM = 28  # pixels of a cell that can hold a number


def confusion(table: NDArray[numpy.int64], names: Sequence[str], title: str) -> Image.Image:
    """The table, each row in shares of its sum: correct ones in blue, mistakes in orange, with counts.

    Of many classes it shows those that are mistaken most often, and the last, which may be the background.

    Args:
        table: [n, n].
        names: names of its rows and columns.
    """
    chosen = _most_mistaken(table)
    part, called = table[numpy.ix_(chosen, chosen)], [names[number] for number in chosen]
    sums = numpy.maximum(table.sum(axis=1)[chosen], 1)
    cell = max(_SMALLEST_CELL, min(_LARGEST_CELL, _ROOM // len(chosen)))
    face = font(13 if cell >= 20 else 11)
    room = min(_NAME, max(text_width(name, face) for name in called) + 4)
    left, top = _MARGIN + 22 + room + 8, _TITLE + 22 + room + 8
    width = max(left + cell * len(chosen) + _MARGIN, 560)
    canvas = Image.new("RGB", (width, top + cell * len(chosen) + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    _head(
        draw,
        title,
        f"the {len(chosen)} of {len(names)} that are mistaken most often" if len(chosen) < len(names) else "",
        width,
    )
    draw.text((left, _TITLE + 8), "predicted", _QUIET, font(13), anchor="lm")
    _upright(canvas, "true", (_MARGIN, top), _QUIET, 13)
    for row, name in enumerate(called):
        text = shortened(name, face, room)
        draw.text((left - 8, top + row * cell + cell // 2), text, _TEXT, face, anchor="rm")
        _upright(canvas, text, (left + row * cell + cell // 2 - 9, top - 8), _TEXT, int(face.size), from_below=True)
        for column, count in enumerate(part[row].tolist()):
            corner = left + column * cell, top + row * cell
            fill = _mixed(_RIGHT if row == column else _WRONG, count / sums[row])
            draw.rectangle((*corner, corner[0] + cell - 2, corner[1] + cell - 2), fill)
            if count and cell >= _COUNTS_FROM:
                middle = corner[0] + cell // 2 - 1, corner[1] + cell // 2 - 1
                draw.text(middle, _short(count), on(fill), font(11 if cell < 40 else 13), anchor="mm")
    return canvas


def _most_mistaken(table: NDArray[numpy.int64]) -> list[int]:
    """The indices of the rows that are shown, in order."""
    if len(table) <= _LARGEST:
        return list(range(len(table)))
    wrong = table.sum(axis=0) + table.sum(axis=1) - 2 * table.diagonal()
    ranked = numpy.argsort(-wrong[:-1], kind="stable")[: _LARGEST - 1]
    return [*sorted(ranked.tolist()), len(table) - 1]


def _head(draw: ImageDraw.ImageDraw, title: str, note: str, width: int) -> None:
    draw.text((_MARGIN, 20), shortened(title, font(16), width - 2 * _MARGIN), _TEXT, font(16), anchor="lm")
    draw.text((_MARGIN, 42), shortened(note, font(13), width - 2 * _MARGIN), _QUIET, font(13), anchor="lm")


def _upright(canvas: Image.Image, text: str, place: tuple[int, int], ink: Colour, size: int, from_below: bool = False) -> None:
    """Vertical text, below or above a point."""
    flat = Image.new("L", (text_width(text, font(size)) + 2, 18))
    ImageDraw.Draw(flat).text((1, 9), text, 255, font(size), anchor="lm")
    upright = flat.rotate(90, expand=True)
    x, y = place
    ImageDraw.Draw(canvas).bitmap((x, y - upright.height if from_below else y), upright, ink)


def _mixed(full: Colour, share: float) -> Colour:
    """Between the background colour and the full one; the root makes small shares visible."""
    red, green, blue = (round(low + (high - low) * share**0.5) for low, high in zip(_LOW, full, strict=True))
    return red, green, blue


def _short(count: int) -> str:
    """A number in at most four characters."""
    for size, unit in (10**9, "G"), (10**6, "M"), (10**3, "k"):
        if count >= size:
            return f"{count / size:.1f}{unit}" if count < 10 * size else f"{count // size}{unit}"
    return str(count)
