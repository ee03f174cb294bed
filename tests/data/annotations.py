"""Small datasets with boxes on the disk, in the formats of COCO, VOC and YOLO, for tests to spoil."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from phalanx.configs.sections.data import DataConfig

SIZES = {1: (40, 30), 7: (24, 48), 9: (32, 32)}  # width and height, by image id
COCO: dict[str, Any] = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in SIZES.items()],
    "categories": [{"id": 44, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 11, "image_id": 7, "category_id": 3, "bbox": [2, 4, 10, 20], "area": 150.5, "iscrowd": 0},
        {"id": 12, "image_id": 1, "category_id": 44, "bbox": [0, 0, 40, 30], "area": 900, "iscrowd": 1},
        {"id": 13, "image_id": 7, "category_id": 44, "bbox": [5.5, 6.5, 8, 8], "area": 64, "iscrowd": 0},
    ],
}


def images(folder: Path, suffix: str = ".png", names: Sequence[object] = tuple(SIZES)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", SIZES.get(name, (16, 16)), (90, 10, 10)).save(folder / f"{name}{suffix}")  # type: ignore[call-overload]


def coco(root: Path, *change: tuple[str, int, str, Any], masks: bool = False, **lists: Any) -> DataConfig:
    """COCO's JSON for the training split, with some fields set: (list, place in it, field, value); or with other lists."""
    content = copy.deepcopy(COCO) | lists
    for kind, place, field, value in change:
        content[kind][place][field] = value
    return coco_text(root, json.dumps(content), masks)


def coco_text(root: Path, text: str | bytes, masks: bool = False) -> DataConfig:
    images(root / "train")
    (root / "instances_train.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return DataConfig(name="coco", root=str(root), options={"masks": masks})


def voc_object(name: str, left: object, top: object, right: object, bottom: object, more: str = "") -> str:
    box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def voc_xml(inside: str = "", width: object = 24, height: object = 48) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{inside or voc_object('dog', 3, 5, 12, 24)}</annotation>"


def voc(root: Path, text: str | bytes, name: str = "7", suffix: str = ".png", listed: str | bytes | None = None) -> DataConfig:
    """One image, 24 x 48 pixels, and its annotation."""
    (root / "JPEGImages").mkdir(parents=True)
    if (root / "JPEGImages" / f"{name}{suffix}").parent.is_dir():
        Image.new("RGB", SIZES[7]).save(root / "JPEGImages" / f"{name}{suffix}", format="PNG")
    (root / "Annotations").mkdir()
    (root / "Annotations" / f"{name}.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (root / "ImageSets/Main").mkdir(parents=True)
    entry = listed if listed is not None else f"{name}\n"
    (root / "ImageSets/Main/train.txt").write_bytes(entry if isinstance(entry, bytes) else entry.encode())
    return DataConfig(name="voc", root=str(root))


def yolo(root: Path, text: str | bytes = "1 0.25 0.5 0.5 0.25\n", names: str | bytes = "names: [cat, dog]\n") -> DataConfig:
    """Three images, the last of which has a label file."""
    images(root / "images/train")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/9.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (root / "data.yaml").write_bytes(names if isinstance(names, bytes) else names.encode())
    return DataConfig(name="yolo", root=str(root))
