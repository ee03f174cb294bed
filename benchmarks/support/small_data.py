"""Small folders in the layouts of data that a benchmark cannot ship, so that `--smoke` runs without it."""

from pathlib import Path

import numpy
from PIL import Image

_SIDE = (48, 64)  # pixels, height and width
_CELL = 24


def camvid(root: Path, train: int = 8, val: int = 2) -> Path:
    """CamVid's layout: images/ and masks/ by split, 11 classes and void; sky above road, right of it a car, left of it void."""
    root.mkdir(parents=True, exist_ok=True)
    names = ["sky", "road", "car", *(f"class{number}" for number in range(3, 11)), "void"]
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    random = numpy.random.default_rng(0)
    colours = random.integers(0, 255, (len(names), 3))
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            mask = numpy.zeros(_SIDE, numpy.uint8)
            mask[20:], mask[26:, 40:], mask[:, :2] = 1, 2, len(names) - 1
            image = (colours[mask] + random.integers(-20, 20, (*_SIDE, 3))).clip(0, 255).astype(numpy.uint8)
            Image.fromarray(image).save(root / f"images/{split}/{number}.jpg")
            Image.fromarray(mask).save(root / f"masks/{split}/{number}.png")
    return root


def bccd(root: Path, train: int = 4, val: int = 2, test: int = 3) -> Path:
    """VOC's layout with boxes of BCCD's three classes: a round cell in each image."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    random, number = numpy.random.default_rng(0), 0
    for split, count in (("train", train), ("val", val), ("test", test)):
        names = [f"{split}{place}" for place in range(count)]
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            kind, number = ("RBC", "WBC", "Platelets")[number % 3], number + 1
            top, left = (int(random.integers(1, side - _CELL)) for side in _SIDE)
            pixels = random.integers(180, 220, (*_SIDE, 3)).astype(numpy.uint8)
            pixels[top : top + _CELL, left : left + _CELL, 1] = 60
            Image.fromarray(pixels).save(root / f"JPEGImages/{name}.jpg")
            (root / f"Annotations/{name}.xml").write_text(_annotation(kind, left, top))
    return root


def _annotation(kind: str, left: int, top: int) -> str:
    corners = {"xmin": left + 1, "ymin": top + 1, "xmax": left + _CELL, "ymax": top + _CELL}
    box = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
    size = f"<size><width>{_SIDE[1]}</width><height>{_SIDE[0]}</height><depth>3</depth></size>"
    return f"<annotation>{size}<object><name>{kind}</name><bndbox>{box}</bndbox></object></annotation>\n"
