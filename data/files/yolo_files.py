"""Where YOLO's images and labels lie, and what `data.yaml` says of them. No torch here."""

import os
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.data.files import values
from phalanx.data.files.class_names import read_class_names
from phalanx.data.files.split_names import spellings
from phalanx.data.files.text_file import shown
from phalanx.data.files.walking import files_below
from phalanx.data.files.yaml_keys import read_keys
from phalanx.data.images.image_formats import is_image_name

_WRITE_NAMES = "Write names: [first, second], in the order of their numbers."


def split_folders(root: Path, split: str) -> tuple[Path, Path]:
    """The folders of a split's images and of its labels.

    Raises:
        UserError: where there is none, or `data.yaml` cannot be read.
    """
    for name in spellings(split):
        for images, labels in ((f"images/{name}", f"labels/{name}"), (f"{name}/images", f"{name}/labels")):
            if (root / images).is_dir():
                return root / images, root / labels
    told = _told_folder(root, split)
    if told is not None:
        return root / told, root / _labels_beside(told)
    raise UserError(
        f"{root / 'images' / split}: there is no such folder, nor {root / split / 'images'}, nor one that data.yaml names for "
        f"{split}. Set data.train_split and data.val_split to those in {root / 'images'}."
    )


def _told_folder(root: Path, split: str) -> Path | None:
    """The folder of images that `data.yaml` names for a split, relative to `root`. Exporters write it with a needless `../`."""
    if not (root / "data.yaml").is_file():
        return None
    content = read_keys(root / "data.yaml")
    told = next((content[name] for name in spellings(split) if isinstance(content.get(name), str)), None)
    if not told:
        return None
    relative = told
    while relative.startswith(("../", "./")):
        relative = relative.split("/", 1)[1]
    base = content.get("path")
    for place in (base if isinstance(base, str) else "", ""):
        for name in (told, relative):
            folder = Path(os.path.normpath(root / place / name))
            if "\0" not in str(folder) and folder.is_dir() and folder.is_relative_to(os.path.normpath(root)):
                return Path(os.path.relpath(folder, root))
    return None


def _labels_beside(images: Path) -> Path:
    """The folder `labels` for the last folder `images` in a path; the folder itself where there is none."""
    parts = list(images.parts)
    for place in reversed(range(len(parts))):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def image_files(folder: Path) -> list[str]:
    """Names of the images in a folder and in those below, relative to it, sorted."""
    return sorted((name for name in files_below(folder) if is_image_name(os.path.basename(name))), key=Path)


def labels_elsewhere(root: Path, images: Path, labels: Path) -> str | None:
    """Where labels lie instead of in the folder for them, and what to do; None where they lie nowhere."""
    beside = _texts(images)
    if beside:
        return f"{beside} .txt files lie beside the images. Move them to {labels}"
    inside = _texts(labels)
    if inside:
        return f"{inside} .txt files in it have the names of no images. Give each the name of its image"
    for place in (root / "labels", root):
        count = sum(_is_label(name) for name in os.listdir(place)) if place.is_dir() else 0
        if count > (place == root):
            return f"{count} .txt files lie in {place}. Move those of this split to {labels}"
    return None


def _texts(folder: Path) -> int:
    return sum(_is_label(os.path.basename(name)) for name in files_below(folder))


def _is_label(name: str) -> bool:
    return name.lower().endswith(".txt") and not name.startswith(".") and name.lower() not in ("classes.txt", "readme.txt")


def class_names(root: Path) -> tuple[str, ...]:
    """The lines of `classes.txt`, else `names` of `data.yaml`.

    Raises:
        UserError: where there is neither, or they are no names of classes numbered from 0.
    """
    listed = read_class_names(root)
    if listed is not None:
        return listed
    path = root / "data.yaml"
    if not path.is_file():
        beside = next(root.glob("labels/*/classes.txt"), None) or next(root.glob("*/labels/classes.txt"), None)
        remedy = (
            "Write the names of the classes, a line each."
            if beside is None
            else f"Copy {beside} there, if it is of both splits."
        )
        raise UserError(f"{root / 'classes.txt'}: there is no such file, and no data.yaml. {remedy}")
    content = read_keys(path)
    names = _in_order(path, content.get("names"))
    for number, name in enumerate(names):
        if not isinstance(name, str) or values.name(name) is None:
            raise UserError(f"{path}: the name of class {number} is {shown(name)}, which is not a name. {_WRITE_NAMES}")
        if name in names[:number]:
            raise UserError(f"{path}: names has {shown(name)} twice. Give each class a name of its own.")
    count = content.get("nc", str(len(names)))
    if values.whole(count) != len(names):
        raise UserError(f"{path}: nc is {shown(count)}, but names has {len(names)}. Correct one of them.")
    return tuple(name.strip() for name in names)


def _in_order(path: Path, names: Any) -> list[Any]:
    """The names from a list, or a dictionary by number, or of numbers by name."""
    if isinstance(names, list) and names:
        return names
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: it has no names of classes. {_WRITE_NAMES}")
    by_number = {values.whole(number): name for number, name in names.items()}
    if None in by_number:
        by_number = {values.whole(number): name for name, number in names.items() if isinstance(number, str)}
    missing = next((number for number in range(len(names)) if number not in by_number), None)
    if missing is not None or len(by_number) != len(names):
        raise UserError(
            f"{path}: names has {len(names)} entries, but none for class {missing or 0}. "
            "Number the classes from 0, without a gap."
        )
    return [by_number[number] for number in range(len(names))]
