"""Pictures of predictions for the documentation, put together into one."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.commands import Phalanx
from phalanx.data.inspect.drawing import draw_boxes, font, scaled, with_instances
from phalanx.train.pictures.overlay import with_overlay

_BACKGROUND, _TEXT = (24, 26, 31), (240, 240, 240)
_GAP, _TITLE_HEIGHT, _TITLE_SIZE, _QUALITY = 6, 30, 18, 85


def sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of pictures, each picture at the top left of its place."""
    heights = [max(one.height for one in row) for row in rows]
    widths = [max(row[place].width for row in rows if place < len(row)) for place in range(max(map(len, rows)))]
    whole = Image.new("RGB", (sum(widths) + _GAP * (len(widths) - 1), sum(heights) + _GAP * (len(heights) - 1)), _BACKGROUND)
    for number, row in enumerate(rows):
        top = sum(heights[:number]) + _GAP * number
        for place, one in enumerate(row):
            whole.paste(one, (sum(widths[:place]) + _GAP * place, top))
    return whole


def titled(image: Image.Image, title: str) -> Image.Image:
    """The picture with a line of text above it."""
    whole = Image.new("RGB", (image.width, image.height + _TITLE_HEIGHT), _BACKGROUND)
    whole.paste(image, (0, _TITLE_HEIGHT))
    ImageDraw.Draw(whole).text((8, _TITLE_HEIGHT // 2), title, _TEXT, font(_TITLE_SIZE), anchor="lm")
    return whole


def with_true_mask(image: Image.Image, mask: Tensor, names: Sequence[str]) -> Image.Image:
    """The image with its mask [H, W] over it, as `phalanx predict` draws one."""
    shares = mask.flatten().bincount(minlength=len(names)) / mask.numel()
    order = sorted((c for c in range(len(names)) if shares[c]), key=lambda c: -shares[c])
    return with_overlay(image, mask.numpy(), [(c, names[c], float(shares[c])) for c in order])


def with_true_boxes(image: Image.Image, sample: Mapping[str, Any], names: Sequence[str], factor: int) -> Image.Image:
    """The image so many times larger, with its `boxes` and their `labels`, and its `masks` where there are any."""
    image = scaled(image, (image.width * factor, image.height * factor))
    if "masks" in sample:
        larger = sample["masks"].repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        image = with_instances(image, larger, sample["labels"].tolist())
    draw_boxes(image, (sample["boxes"] * factor).tolist(), sample["labels"].tolist(), [names[n] for n in sample["labels"]])
    return image


def save(image: Image.Image, path: Path, scale: float) -> None:
    """As a JPEG, smaller by a factor."""
    sides = round(image.width * scale), round(image.height * scale)
    image.resize(sides, Image.Resampling.LANCZOS).save(path, quality=_QUALITY)


def predicted(phalanx: Phalanx, run: Path, images: Sequence[Path], *more: str) -> tuple[Path, list[dict[str, Any]]]:
    """What `phalanx predict` finds in images: its folder, and an object for each."""
    seen = run / "seen"
    print(phalanx.run("predict", str(run), *map(str, images), "-o", str(seen), *more), file=sys.stderr)
    return seen, json.loads((seen / "predictions.json").read_text())
