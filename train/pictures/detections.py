"""Boxes of detections on their image, with class and score, and the masks within them."""

from collections.abc import Sequence

import numpy
from PIL import Image
from torch import Tensor

from phalanx.data.inspect.drawing import colour, draw_boxes, font, shortened
from phalanx.train.pictures.caption import drawn_size, viewable
from phalanx.train.pictures.overlay import outlines

_OPACITY, _OUTLINE = 0.5, 0.95
_NAME_SIZE, _LONGEST = 12, 150  # of a name, in pixels


def with_detections(
    image: Image.Image,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    scores: Sequence[float],
    names: Sequence[str],
    masks: Tensor | None = None,
) -> Image.Image:
    """The image with its detections: each in the colour of its class; with masks each in its own colour.

    Args:
        image: as it was read; RGB.
        boxes: left, top, right, bottom in pixels of the image, best first [k, 4].
        labels, scores: of each box.
        names: the classes' names.
        masks: bool [k, H, W].
    """
    shown = viewable(image)
    width, height = drawn_size(image, shown)
    margin = (shown.width - width) // 2
    colours = list(labels) if masks is None else list(range(len(labels)))
    if masks is not None and len(labels):
        part = shown.crop((margin, 0, margin + width, height))
        shown.paste(_with_masks(part, masks, colours), (margin, 0))
    across, down = width / image.width, height / image.height
    placed = [
        (left * across + margin, top * down, right * across + margin, bottom * down) for left, top, right, bottom in boxes
    ]
    face = font(_NAME_SIZE)
    captions = [f"{shortened(names[c], face, _LONGEST)} {score:.0%}" for c, score in zip(labels, scores, strict=True)]
    draw_boxes(shown, placed, colours, captions)
    return shown


def _with_masks(image: Image.Image, masks: Tensor, colours: Sequence[int]) -> Image.Image:
    """The masks over the image, the first over those that follow, more of the colour at their outlines."""
    pixels = numpy.array(image, dtype=numpy.float32)  # [h, w, 3]
    for mask, number in reversed(list(zip(masks.cpu().numpy(), colours, strict=True))):
        inside = numpy.asarray(Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST))
        opacity = numpy.where(outlines(inside), _OUTLINE, _OPACITY)[inside, None].astype(numpy.float32)
        pixels[inside] = pixels[inside] * (1 - opacity) + numpy.array(colour(number + 1), numpy.float32) * opacity
    return Image.fromarray(pixels.round().astype(numpy.uint8))
