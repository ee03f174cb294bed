"""Shapes as a user has them: image files, wide ones and high ones, with boxes and masks in a JSON of COCO's."""

import json
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor
from torchvision.io import write_png

from phalanx.configs.sections.data import DataConfig
from phalanx.data.open import open_split

SIDE, SHORT = 64, 48  # pixels of an image


def write(root: Path, counts: dict[str, int]) -> None:
    """A folder in COCO's layout, with so many images of each split; every second one is high."""
    options = {"target": "boxes", "size": SIDE} | counts
    for split, count in counts.items():
        (root / split).mkdir(parents=True)
        shapes = open_split(DataConfig(name="shapes", options=options), split)  # type: ignore[arg-type]
        images, annotations = [], list[dict[str, Any]]()
        for number in range(count):
            height, width = (SIDE, SHORT) if number % 2 else (SHORT, SIDE)
            sample: dict[str, Any] = dict(shapes[number])
            write_png(_uint8(sample["image"])[:, :height, :width], str(root / split / f"{number}.png"))
            images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
            for label, mask in zip(sample["labels"].tolist(), sample["masks"][:, :height, :width], strict=True):
                if mask.sum() >= 16:
                    annotations.append(_annotation(len(annotations), number, label, mask))
        categories = [{"id": label, "name": name} for label, name in enumerate(shapes.classes)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"instances_{split}.json").write_text(json.dumps(content))


def _uint8(image: Tensor) -> Tensor:
    return (image * 255).byte() if image.is_floating_point() else image


def _annotation(number: int, image: int, label: int, mask: Tensor) -> dict[str, Any]:
    """An object with its mask as run lengths."""
    columns = mask.T.reshape(-1).numpy().astype(int)
    edges = numpy.flatnonzero(numpy.diff(columns, prepend=0, append=0)).tolist()
    runs = numpy.diff([0, *edges, len(columns)]).tolist()
    runs = runs[:-1] if runs[-1] == 0 else runs
    rows, across = (numpy.flatnonzero(mask.any(dim=axis).numpy()) for axis in (1, 0))
    box = [int(across[0]), int(rows[0]), int(across[-1] - across[0] + 1), int(rows[-1] - rows[0] + 1)]
    outline = {"size": list(mask.shape), "counts": runs}
    facts = {"id": number, "image_id": image, "category_id": label, "iscrowd": 0}
    return facts | {"bbox": box, "area": int(mask.sum()), "segmentation": outline}
