"""An image with a caption below it, legible on any image."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

# Viewable sides in pixels: smaller images are enlarged by an integer factor, larger ones shrunk.
_SMALLEST, _LARGEST = 240, 1024
_MARGIN, _BAR = 10, 4
_BACKGROUND, _TRACK, _TEXT, _QUIET = (24, 26, 31), (58, 62, 71), (240, 240, 240), (158, 164, 175)
_ACCENT = (74, 158, 255)


def with_caption(image: Image.Image, lines: Sequence[tuple[str, float | None]]) -> Image.Image:
    """The image, and below it one line of text per label, with its probability and a bar of that length.

    Args:
        image: as it was read; RGB.
        lines: label and probability, if there is one; the first is emphasised.
    """
    picture = viewable(image)
    size = 16 if picture.width < 400 else 20
    font = ImageFont.load_default(size)
    row = size + _BAR + 12
    canvas = Image.new("RGB", (picture.width, picture.height + row * len(lines) + _MARGIN), _BACKGROUND)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    right = picture.width - _MARGIN
    for number, (label, probability) in enumerate(lines):
        top = picture.height + _MARGIN + number * row
        colour = _TEXT if number == 0 else _QUIET
        percent = "" if probability is None else f"{probability:.1%}"
        width = right - _MARGIN - draw.textlength(percent, font) - _MARGIN
        baseline = top + size - 4
        draw.text((_MARGIN, baseline), _cut(draw, label, font, width), colour, font, anchor="ls")
        if probability is None:
            continue
        draw.text((right, baseline), percent, colour, font, anchor="rs")
        line = top + size + 3
        draw.rectangle((_MARGIN, line, right, line + _BAR - 1), _TRACK)
        end = _MARGIN + round(probability * (right - _MARGIN))
        if end > _MARGIN:
            draw.rectangle((_MARGIN, line, end, line + _BAR - 1), _ACCENT if number == 0 else _QUIET)
    return canvas


def viewable(image: Image.Image) -> Image.Image:
    """The image in a viewable size: pixels of small ones stay sharp."""
    short, long = min(image.size), max(image.size)
    if long > _LARGEST:
        factor = _LARGEST / long
        sides = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(sides, Image.Resampling.LANCZOS)
    elif short < _SMALLEST:
        times = max(1, min(-(-_SMALLEST // short), _LARGEST // long))
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    if image.width >= _SMALLEST:
        return image
    # A narrow image would be too narrow for text.
    wide = Image.new("RGB", (_SMALLEST, image.height), _BACKGROUND)
    wide.paste(image, ((_SMALLEST - image.width) // 2, 0))
    return wide


def drawn_size(image: Image.Image, shown: Image.Image) -> tuple[int, int]:
    """Width and height of an image within its `viewable` form, which may have margins at the sides."""
    return max(1, min(shown.width, round(image.width * shown.height / image.height))), shown.height


def _cut(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, shortened to a width in pixels."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text}..."
