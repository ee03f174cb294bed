"""`coco`: objects in COCO's JSON: boxes, polygons or run lengths, crowds; categories of any ids.

Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014 (arXiv:1405.0312); format: cocodataset.org/#format-data. Of a
split, below `data.root`: `annotations/instances_SPLIT.json` and images in `SPLIT/`; `instances_SPLIT.json` beside `SPLIT/`; or
`SPLIT/_annotations.coco.json` with the images beside it. Images may also lie in `images/SPLIT/`. Others by
`data.options`: `annotations` and `images`, with `{split}`.
"""

import json
import os
from pathlib import Path
from urllib.parse import unquote

import numpy

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files import coco_masks
from phalanx.data.files.coco_file import Content, ListedImage, read_coco
from phalanx.data.files.objects import Faults, Found, fault_of
from phalanx.data.files.same_name import as_stored, differ_in_case
from phalanx.data.files.split_names import spellings
from phalanx.data.files.string_array import StringArray
from phalanx.data.files.text_file import shown
from phalanx.data.files.values import name as readable_name
from phalanx.data.formats.detected import DetectedImages
from phalanx.data.images.image_header import read_header

_LAYOUTS = (
    ("annotations/instances_{split}.json", "{split}"),
    ("instances_{split}.json", "{split}"),
    ("{split}/_annotations.coco.json", "{split}"),
)
_OPTIONS: dict[str, type] = {"annotations": str, "images": str, "masks": bool}


def open_split(config: DataConfig, split: str) -> DetectedImages:
    """All images that the JSON lists, in the order of their ids, including those without objects.

    Raises:
        UserError: if a file is missing or is not COCO's, or an object cannot be used.
    """
    _check_options(config)
    path, folder = _places(config, split)
    content = read_coco(path)
    images, notes = _with_sizes(path, Path(config.root or ""), folder, content)
    places = {own: place for place, own in enumerate(images)}
    labels = {own: label for label, own in enumerate(content.categories)}
    with_masks = bool(config.options.get("masks", False))
    faults, found = Faults(config.on_error == "skip"), Found(areas=[], outlines=[] if with_masks else None)
    for annotation in content.annotations():
        where = f"{path}: {annotation.called}"
        image = images.get(annotation.image)
        if image is None:
            faults.add(where, f"there is no image {shown(annotation.image)}", "are of images that are not listed", "Correct it")
            continue
        if annotation.category not in labels:
            problem = f"there is no category {shown(annotation.category)}"
            faults.add(where, problem, "are of unknown categories", "Add it to the categories")
            continue
        left, top, width, height = annotation.box
        box = (left, top, left + width, top + height)
        if (fault := fault_of(box, image.width, image.height)) is not None:
            faults.add(f"{where} of {image.file_name}", *fault, "Correct it")
            continue
        outline = coco_masks.plain(annotation.outline) if with_masks else None
        if with_masks and (wrong := coco_masks.fault_of(outline, image.height, image.width)):
            faults.add(f"{where} of {image.file_name}", wrong, "have masks that cannot be used", "Correct it")
            continue
        found.add(
            places[annotation.image],
            box,
            labels[annotation.category],
            annotation.crowd,
            annotation.area,
            json.dumps(outline),
        )
    return DetectedImages(
        config,
        folder,
        StringArray.of(image.file_name for image in images.values()),
        tuple(category.name for category in content.categories.values()),
        found.arrays(len(images)),
        numpy.array([(image.height, image.width) for image in images.values()], numpy.int32).reshape(-1, 2),
        (
            *faults.notes(len(content)),
            *notes,
            *_named_alike(path, content),
            *differ_in_case(str(path), [one.name for one in content.categories.values()]),
        ),
        ([image.id for image in images.values()], [category.id for category in content.categories.values()]),
        f"{path}: its {len(content)} annotations of {len(images)} images",
    )


def _named_alike(path: Path, content: Content) -> tuple[str, ...]:
    """A message, if two categories have the same name."""
    seen: dict[str, int | str] = {}
    for category in content.categories.values():
        if category.name in seen:
            both = f"{shown(seen[category.name])} and {shown(category.id)} are both named {category.name}"
            return (f"{path}: the categories {both}: they are learnt as two classes.",)
        seen[category.name] = category.id
    return ()


def _with_sizes(path: Path, root: Path, folder: Path, content: Content) -> tuple[dict[int | str, ListedImage], tuple[str, ...]]:
    """Images by id, and a message if some have no size: that of the image file is used then."""
    images, without = dict[int | str, ListedImage](), list[ListedImage]()
    for own, image in content.images.items():
        image = image._replace(file_name=_file_name(path, root, folder, image))
        if not (image.height and image.width):
            without.append(image)
            header = read_header(folder / image.file_name)
            height, width = (0, 0) if header is None else header.upright
            image = image._replace(height=height, width=width)
        images[own] = image
    twice = len(images) - len({image.file_name for image in images.values()})
    notes = (f"{path}: {twice} images are listed again under other ids: their objects are learnt separately.",) if twice else ()
    if not without:
        return images, notes
    return images, (
        *notes,
        f"{path}: image {shown(without[0].id)} has no height and width. {len(without)} of {len(images)} images have none: "
        "the sizes of their files are used.",
    )


def _file_name(path: Path, root: Path, folder: Path, image: ListedImage) -> str:
    """A name relative to the folder, also from a Windows path or one relative to `data.root`."""
    name = image.file_name
    if "\\" in name and not (folder / name).exists():
        name = name.replace("\\", "/")
    name = as_stored(folder, name)
    if "/" in name and not (folder / name).exists() and (root / as_stored(root, name)).exists():
        name = os.path.relpath(root / as_stored(root, name), folder)
    if "%" in name and not (folder / name).exists():
        name = _without_percent(folder, name)
    allowed = tuple(os.path.join(os.path.abspath(place), "") for place in (root, folder))
    if ".." in name and not os.path.abspath(folder / name).startswith(allowed):
        raise UserError(
            f"{path}: image {shown(image.id)} has the 'file_name' {shown(name)}, which leads out of data.root. "
            f"Write it relative to {folder}, or set data.root to a folder above."
        )
    return name


def _without_percent(folder: Path, name: str) -> str:
    """A name as in an address, with `%20` for a blank, as it lies in the folder; as it is where nothing lies there."""
    meant = unquote(name)
    found = as_stored(folder, meant) if readable_name(meant) is not None else name
    return found if (folder / found).is_file() else name


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
    tried = [
        (root / annotations.replace("{split}", name), root / folder.replace("{split}", name))
        for name in spellings(split)
        for annotations, folder in layouts
    ]
    for path, images in tried:
        if path.is_file():
            if not images.is_dir() and layouts is _LAYOUTS and (root / "images" / images.name).is_dir():
                images = root / "images" / images.name
            if not images.is_dir():
                raise UserError(f"{images}: there is no such folder, but {path} needs its images. Set data.options.images.")
            return path, images
    listed = ", ".join(str(path) for path, _ in tried[: len(layouts)])
    raise UserError(
        f"data.root={config.root}: the split {split} has none of {listed}. Set data.train_split and data.val_split, or "
        "data.options.annotations and data.options.images."
    )
