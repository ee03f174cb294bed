"""`coco`: objects as COCO's JSON has them: boxes, polygons or run lengths, crowds; categories of any ids.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014 (arXiv:1405.0312); format: cocodataset.org/#format-data. Of a
split, below `data.root`: `annotations/instances_SPLIT.json` and images in `SPLIT/`; `instances_SPLIT.json` beside `SPLIT/`; or
`SPLIT/_annotations.coco.json` with the images beside it. Others by `data.options`: `annotations` and `images`, with `{split}`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from phalanx.configs.data import DataConfig
from phalanx.configs.errors import UserError
from phalanx.data import coco_masks
from phalanx.data.detected import DetectedImages
from phalanx.data.names import Names
from phalanx.data.objects import Faults, Found, fault_of

_LAYOUTS = (
    ("annotations/instances_{split}.json", "{split}"),
    ("instances_{split}.json", "{split}"),
    ("{split}/_annotations.coco.json", "{split}"),
)
_OPTIONS: dict[str, type] = {"annotations": str, "images": str, "masks": bool}


def open_split(config: DataConfig, split: str) -> DetectedImages:
    """All images that the JSON lists, in the order of their ids, those without objects too.

    Raises:
        UserError: where a file is missing or is not COCO's, or an object cannot be used.
    """
    _check_options(config)
    path, folder = _places(config, split)
    content = _read(path)
    images = {image["id"]: image for image in content["images"]}
    if len(images) < len(content["images"]):
        _refuse_twice(path, "image", [image["id"] for image in content["images"]])
    in_order = [images[number] for number in sorted(images, key=_numbers_first)]
    numbers = {image["id"]: place for place, image in enumerate(in_order)}
    categories = sorted(content["categories"], key=lambda category: category["id"])
    labels = {category["id"]: label for label, category in enumerate(categories)}
    if len(labels) < len(categories):
        _refuse_twice(path, "category", [category["id"] for category in categories])
    with_masks = bool(config.options.get("masks", False))
    faults, found = Faults(config.on_error == "skip"), Found(areas=[], outlines=[] if with_masks else None)
    if len({annotation["id"] for annotation in content["annotations"]}) < len(content["annotations"]):
        _refuse_twice(path, "annotation", [annotation["id"] for annotation in content["annotations"]])
    for annotation in content["annotations"]:
        where = f"{path}: annotation {annotation['id']}"
        image = images.get(annotation["image_id"])
        if image is None:
            faults.add(where, f"there is no image {annotation['image_id']}", "are of images that are not listed", "Correct it")
            continue
        if annotation["category_id"] not in labels:
            problem = f"there is no category {annotation['category_id']}"
            faults.add(where, problem, "are of unknown categories", "Add it to the categories")
            continue
        left, top, width, height = annotation["bbox"]
        box = (left, top, left + width, top + height)
        if (fault := fault_of(box, image["width"], image["height"])) is not None:
            faults.add(f"{where} of {image['file_name']}", *fault, "Correct it")
            continue
        outline = annotation.get("segmentation") if with_masks else None
        if with_masks and (wrong := coco_masks.fault_of(outline, image["height"], image["width"])):
            faults.add(f"{where} of {image['file_name']}", wrong, "have masks that cannot be used", "Correct it")
            continue
        found.add(
            numbers[annotation["image_id"]],
            box,
            labels[annotation["category_id"]],
            bool(annotation.get("iscrowd", 0)),
            annotation.get("area", math.nan),
            json.dumps(outline),
        )
    return DetectedImages(
        config,
        folder,
        Names.of(str(image["file_name"]) for image in in_order),
        tuple(str(category["name"]) for category in categories),
        found.arrays(len(images)),
        numpy.array([(image["height"], image["width"]) for image in in_order], numpy.int32).reshape(-1, 2),
        faults.notes(len(content["annotations"])),
        ([image["id"] for image in in_order], [category["id"] for category in categories]),
    )


def _numbers_first(number: int | str) -> tuple[bool, int | str]:
    """To sort ids by, which may be numbers and texts in one file."""
    return isinstance(number, str), number


def _check_options(config: DataConfig) -> None:
    for name, value in config.options.items():
        if name not in _OPTIONS:
            raise UserError(f"data.options.{name}: coco takes {', '.join(_OPTIONS)}. Remove it.")
        if not isinstance(value, _OPTIONS[name]):
            wanted = "true or false" if _OPTIONS[name] is bool else "a path"
            raise UserError(f"data.options.{name}={value}: must be {wanted}.")


def _places(config: DataConfig, split: str) -> tuple[Path, Path]:
    """The JSON and the folder of images."""
    root, options = Path(config.root or ""), config.options
    layouts: tuple[tuple[str, str], ...] = _LAYOUTS
    if "annotations" in options or "images" in options:
        layouts = ((str(options.get("annotations", _LAYOUTS[0][0])), str(options.get("images", "{split}"))),)
    tried = [root / annotations.replace("{split}", split) for annotations, _ in layouts]
    for path, (_, folder) in zip(tried, layouts, strict=True):
        if path.is_file():
            images = root / folder.replace("{split}", split)
            if not images.is_dir():
                raise UserError(f"{images}: there is no such folder, but {path} needs its images. Set data.options.images.")
            return path, images
    listed = ", ".join(str(path) for path in tried)
    raise UserError(
        f"data.root={config.root}: of the split {split} there is none of {listed}. Set data.train_split and data.val_split, or "
        "data.options.annotations and data.options.images."
    )


def _read(path: Path) -> dict[str, Any]:
    """The content of the JSON, with all that is needed of it.

    Raises:
        UserError: where it is not COCO's.
    """
    remedy = "Give a file in COCO's format, with images, annotations and categories."
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: this is no whole JSON ({error}). {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: this is a JSON, but not COCO's: it holds no dictionary. {remedy}")
    for name, kinds in _ENTRIES.items():
        rows = content.get(name)
        if not isinstance(rows, list):
            raise UserError(f"{path}: this is a JSON, but not COCO's: it has no list {name!r}. {remedy}")
        for place, row in enumerate(rows):
            if problem := _problem(row, kinds):
                raise UserError(f"{path}: entry {place} of {name!r} {problem}. {remedy}")
    return content


_NUMBER = (int, float)
_ENTRIES: dict[str, Mapping[str, Any]] = {
    "images": {"id": (int, str), "file_name": str, "height": int, "width": int},
    "annotations": {"id": (int, str), "image_id": (int, str), "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}


def _problem(row: Any, kinds: Mapping[str, Any]) -> str | None:
    if not isinstance(row, dict):
        return "is no dictionary"
    for name, kind in kinds.items():
        if name not in row:
            return f"has no {name!r}"
        if not isinstance(row[name], kind):
            return f"has a {name!r} that cannot be: {row[name]!r}"
    box = row.get("bbox", [0, 0, 0, 0])
    if "bbox" in kinds and not isinstance(row.get("area", 0), _NUMBER):
        return f"has an 'area' that is no number: {row['area']!r}"
    if "bbox" in kinds and (len(box) != 4 or not all(isinstance(value, _NUMBER) for value in box)):
        return f"has a 'bbox' that is not four numbers: {box!r}"
    return None


def _refuse_twice(path: Path, what: str, ids: list[Any]) -> None:
    seen: set[Any] = set()
    for number in ids:
        if number in seen:
            raise UserError(f"{path}: the {what} id {number} is there twice. Give each {what} an id of its own.")
        seen.add(number)
