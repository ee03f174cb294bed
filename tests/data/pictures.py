"""Datasets on the disk for tests: small pictures, made here."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy
from PIL import Image

from phalanx.configs.sections.data import DataConfig


def picture(seed: int, width: int = 20, height: int = 16, channels: int = 3) -> Image.Image:
    """A picture of smooth noise."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, shape, dtype=numpy.uint8))


def save(image: Image.Image, path: Path) -> Path:
    """Writes a picture, and the folders it lies in; a JPEG with hardly any loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def jpeg(seed: int) -> bytes:
    content = io.BytesIO()
    picture(seed).save(content, "JPEG")
    return content.getvalue()


def image_folder(root: Path, counts: Sequence[int] = (5, 3), split: str | None = "train") -> Path:
    """So many pictures of each class: `ROOT/SPLIT/class-0/0.png`."""
    for number, count in enumerate(counts):
        for i in range(count):
            save(picture(100 * number + i), root / (split or "") / f"class-{number}" / f"{i}.png")
    return root


def masks(root: Path, train: int = 4, val: int = 2, classes: Sequence[str] = ("road", "tree", "car")) -> Path:
    """Pictures and masks of all classes."""
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            save(picture(i), root / "images" / split / f"{i}.jpg")
            numbers = numpy.random.default_rng(i).integers(0, len(classes), (16, 20), dtype=numpy.uint8)
            save(Image.fromarray(numbers), root / "masks" / split / f"{i}.png")
    return root


def config(name: str, root: Path | None = None, **keys: object) -> DataConfig:
    return DataConfig.model_validate({"name": name, "root": None if root is None else str(root), "check": "full"} | keys)
