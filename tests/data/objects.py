"""Images with so many objects each, none of them too, in each of the formats of detection."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.data.pictures import picture, save

SIDE = 32
Counts = Mapping[str, Sequence[int]]  # of objects in each image, by split


def boxes(count: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom."""
    return [(2 + 5 * place, 3, 14 + 5 * place, 25) for place in range(count)]


def coco(root: Path, counts: Counts) -> None:
    """Of two categories, with masks."""
    for split, images in counts.items():
        annotations = list[dict[str, Any]]()
        for number, count in enumerate(images):
            save(picture(number, SIDE, SIDE), root / split / f"{number}.png")
            for place, (left, top, right, bottom) in enumerate(boxes(count)):
                shape = {"segmentation": [[left, top, right, top, right, bottom, left, bottom]], "iscrowd": 0}
                box = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
                of = {"id": len(annotations), "image_id": number, "category_id": 1 + place % 2}
                annotations.append(of | box | shape)
        listed = [{"id": n, "file_name": f"{n}.png", "height": SIDE, "width": SIDE} for n in range(len(images))]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"images": listed, "annotations": annotations, "categories": categories}
        (root / f"instances_{split}.json").write_text(json.dumps(content))


def voc(root: Path, counts: Counts) -> None:
    """Of two classes."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, images in counts.items():
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{split}{number}\n" for number in range(len(images))))
        for number, count in enumerate(images):
            save(picture(number, SIDE, SIDE), root / f"JPEGImages/{split}{number}.png")
            objects = "".join(
                f"<object><name>{('cat', 'dog')[place % 2]}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
                f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
                for place, (left, top, right, bottom) in enumerate(boxes(count))
            )
            size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
            (root / f"Annotations/{split}{number}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def yolo(root: Path, counts: Counts) -> None:
    """Of two classes; of images without objects every second one has a text file, which is empty."""
    for split, images in counts.items():
        (root / "labels" / split).mkdir(parents=True)
        for number, count in enumerate(images):
            save(picture(number, SIDE, SIDE), root / f"images/{split}/{number}.png")
            lines = [
                f"{place % 2} {(left + right) / 2 / SIDE} {(top + bottom) / 2 / SIDE} {(right - left) / SIDE} "
                f"{(bottom - top) / SIDE}\n"
                for place, (left, top, right, bottom) in enumerate(boxes(count))
            ]
            if lines or number % 2:
                (root / f"labels/{split}/{number}.txt").write_text("".join(lines))
    (root / "classes.txt").write_text("cat\ndog\n")
