"""A contact sheet: the network's inputs, with captions and annotations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from phalanx.data.inspect.drawing import (
    colour,
    draw_boxes,
    font,
    picture,
    scaled,
    shortened,
    text_width,
    with_instances,
    with_mask,
)
from phalanx.data.transforms.pipeline import Pipeline

_SIDE, _SIDE_WITH_BOXES = 192, 288  # pixels of a tile's longer side, at least: small images are enlarged by integer factors
_LARGEST = 384
_MARGIN, _GAP = 24, 16
_GROUND, _INK, _FAINT = (250, 250, 248), (30, 30, 30), (110, 110, 110)
_LINE = 19
_LEAST_SHARE = 0.005  # the least share of a class in a mixture that is named


@dataclass(frozen=True)
class Tile:
    """One sample of a sheet.

    Attributes:
        image: with annotations drawn on it.
        caption: its classes.
        note: in a fainter line below.
    """

    image: Image.Image
    caption: str
    note: str


def tiles(batch: Mapping[str, Any], seen: Pipeline, classes: Sequence[str]) -> list[Tile]:
    """The samples of a micro-batch, as tiles."""
    return [_tile({name: values[place] for name, values in batch.items()}, seen, classes) for place in range(len(batch["id"]))]


def _tile(sample: Mapping[str, Any], seen: Pipeline, classes: Sequence[str]) -> Tile:
    image = picture(seen.pixels(sample["image"]))
    caption, note = _caption(sample, classes), f"sample {int(sample['id'])}"
    longer, side = max(image.size), _SIDE_WITH_BOXES if "boxes" in sample else _SIDE
    factor = -(-side // longer) if longer <= _LARGEST else _LARGEST / longer
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    if "mask" in sample:
        over = with_mask(image, _placed(sample["mask"], sample, seen, len(classes)), len(classes))
        return Tile(_side_by_side(scaled(image, size), over.resize(size, Image.Resampling.NEAREST)), caption, note)
    if "boxes" not in sample:
        return Tile(scaled(image, size), caption, note)
    labels = sample["labels"].tolist()
    if "masks" in sample and len(labels):
        image = with_instances(image, _placed(sample["masks"], sample, seen, 0), labels)
    image = scaled(image, size)
    boxes = _placed_boxes(sample, seen) * factor
    draw_boxes(image, boxes.tolist(), labels, [_name(classes, label) for label in labels])
    return Tile(image, caption, note)


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + 2 + right.width, left.height), _GROUND)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 2, 0))
    return both


def _placed(mask: Tensor, sample: Mapping[str, Any], seen: Pipeline, outside: int) -> Tensor:
    """A mask resized to the network's input: in validation it has the size of the stored image."""
    if "size" not in sample:
        return mask
    top, left, height, width = seen.placement(sample["size"].tolist())
    rows = ((torch.arange(height) + 0.5) * mask.shape[-2] / height).long()
    columns = ((torch.arange(width) + 0.5) * mask.shape[-1] / width).long()
    placed = mask.new_full((*mask.shape[:-2], *sample["image"].shape[-2:]), outside)
    placed[..., top : top + height, left : left + width] = mask[..., rows, :][..., columns]
    return placed


def _placed_boxes(sample: Mapping[str, Any], seen: Pipeline) -> Tensor:
    """Boxes [n, 4] in the network's input."""
    boxes: Tensor = sample["boxes"]
    if "size" not in sample:
        return boxes
    stored_height, stored_width = sample["size"].tolist()
    top, left, height, width = seen.placement((stored_height, stored_width))
    across, down = width / stored_width, height / stored_height
    return boxes * torch.tensor([across, down, across, down]) + torch.tensor([left, top, left, top])


def _name(classes: Sequence[str], number: int) -> str:
    return classes[number] if 0 <= number < len(classes) else str(number)


def _caption(sample: Mapping[str, Any], classes: Sequence[str]) -> str:
    """The sample's classes as text; of a mixture with their shares."""
    if "mask" in sample:
        there = [_name(classes, number) for number in sample["mask"].unique().tolist() if number < len(classes)]
        return ", ".join(there) or "nothing"
    if "boxes" in sample:
        count = len(sample["labels"])
        return f"{count} box{'es' if count != 1 else ''}"
    target = sample.get("target")
    if not isinstance(target, Tensor):
        return ""
    if target.dim() == 0 and not target.is_floating_point():
        return _name(classes, int(target))
    if target.dim() != 1 or len(target) < len(classes):
        return f"target {list(target.shape)}" if target.dim() else f"{float(target):g}"
    shares = sorted(((float(share), number) for number, share in enumerate(target) if share > _LEAST_SHARE), reverse=True)
    if all(share == 1 for share, _ in shares):
        return ", ".join(_name(classes, number) for _, number in shares) or "none"
    return " + ".join(f"{_name(classes, number)} ({share:.0%})" for share, number in shares)


def sheet(shown: Sequence[Tile], title: str, subtitle: str, legend: Sequence[tuple[int, str]] = ()) -> Image.Image:
    """The tiles in rows, under a title.

    Args:
        legend: numbers and names of the classes in the legend.
    """
    width = max(max(tile.image.width for tile in shown), 96)
    height = max(tile.image.height for tile in shown)
    columns = _columns(len(shown), width + _GAP, height + 2 * _LINE + _GAP)
    rows = -(-len(shown) // columns)
    inner = max(columns * (width + _GAP) - _GAP, 420)
    keys = _legend_rows(legend, inner)
    top = _MARGIN + 30 + _LINE + _GAP
    bottom = top + rows * (height + 2 * _LINE + _GAP + 4)
    canvas = Image.new("RGB", (2 * _MARGIN + inner, bottom + len(keys) * 24 + (_GAP if keys else 0) + _MARGIN - _GAP), _GROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), shortened(title, font(22), inner), fill=_INK, font=font(22))
    draw.text((_MARGIN, _MARGIN + 32), shortened(subtitle, font(14), inner), fill=_FAINT, font=font(14))
    for number, tile in enumerate(shown):
        x = _MARGIN + (number % columns) * (width + _GAP)
        y = top + (number // columns) * (height + 2 * _LINE + _GAP + 4)
        canvas.paste(tile.image, (x + (width - tile.image.width) // 2, y + height - tile.image.height))
        draw.text((x, y + height + 5), shortened(tile.caption, font(14), width), fill=_INK, font=font(14))
        draw.text((x, y + height + 5 + _LINE), shortened(tile.note, font(12), width), fill=_FAINT, font=font(12))
    for row, entries in enumerate(keys):
        for x, number, name in entries:
            y = bottom + row * 24
            draw.rectangle((_MARGIN + x, y, _MARGIN + x + 15, y + 15), fill=colour(number), outline=_FAINT)
            draw.text((_MARGIN + x + 22, y + 8), name, fill=_INK, font=font(14), anchor="lm")
    return canvas


def _columns(count: int, width: int, height: int) -> int:
    """The number of columns for a sheet that is about a third wider than high, with a full last row if possible."""
    about = round((count * 4 / 3 * height / width) ** 0.5)
    possible = [columns for columns in (about, about + 1, about - 1) if 1 <= columns <= count] or [1]
    return min(possible, key=lambda columns: -count % columns)


def _legend_rows(legend: Sequence[tuple[int, str]], inner: int) -> list[list[tuple[int, int, str]]]:
    """Entries (x, number, name) of each row."""
    rows: list[list[tuple[int, int, str]]] = []
    x = inner
    for number, name in legend:
        shown = shortened(name, font(14), inner - 22)
        width = 22 + text_width(shown, font(14)) + 22
        if x + width - 22 > inner:
            rows.append([])
            x = 0
        rows[-1].append((x, number, shown))
        x += width
    return rows
