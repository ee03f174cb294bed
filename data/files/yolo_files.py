"""The locations of YOLO's images and labels, and the content of `data.yaml`. No torch here."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError
from phalanx.data.files import values
from phalanx.data.files.class_names import read_class_names
from phalanx.data.files.same_name import as_stored, composed
from phalanx.data.files.split_names import spellings
from phalanx.data.files.text_file import lines, read_text, shown
from phalanx.data.files.walking import files_below, not_read
from phalanx.data.files.yaml_keys import read_keys
from phalanx.data.images.image_formats import is_image_name

_WRITE_NAMES = "Write names: [first, second], in the order of their numbers."


@dataclass(frozen=True)
class SplitFiles:
    """The images of a split, and the paths of their labels.

    Attributes:
        images, labels: where they were searched: folders, of several the first, or a list that `data.yaml` names.
        names: the images' names, relative to the root.
        stems: the label file's path of each, relative to the root, without suffix.
        notes: messages about files that were left out.
    """

    images: Path
    labels: Path
    names: list[str]
    stems: list[str]
    notes: tuple[str, ...] = ()


def data_yaml(root: Path) -> Path:
    """`data.yaml`, or `data.yml`."""
    path = root / "data.yaml"
    return path if path.is_file() or not path.with_suffix(".yml").is_file() else path.with_suffix(".yml")


def split_files(root: Path, split: str) -> SplitFiles:
    """The images of a split: from its folder, sorted by name, or from the folders and lists that `data.yaml` names.

    Raises:
        UserError: if there are none, or `data.yaml` or a list cannot be read.
    """
    for name in spellings(split):
        for images, labels in ((f"images/{name}", f"labels/{name}"), (f"{name}/images", f"{name}/labels")):
            if (root / images).is_dir():
                return _of_folder(root, Path(images), Path(labels))
    parts = [_of_list(root, place) if (root / place).is_file() else _of_folder(root, place) for place in _listed(root, split)]
    if not parts:
        raise UserError(
            f"{root / 'images' / split}: there is no such folder, nor {root / split / 'images'}, nor one that data.yaml names "
            f"for {split}. Set data.train_split and data.val_split to those in {root / 'images'}."
        )
    names, stems = [name for part in parts for name in part.names], [stem for part in parts for stem in part.stems]
    again = len(names) - len(set(names))
    message = f"{parts[0].images}: {again} of {len(names)} images are listed again, and repeated in every epoch."
    notes = (*(note for part in parts for note in part.notes), *([message] if again else ()))
    return SplitFiles(parts[0].images, parts[0].labels, names, stems, notes)


def _of_folder(root: Path, images: Path, labels: Path | None = None) -> SplitFiles:
    labels = _labels_beside(images) if labels is None else labels
    files = list(files_below(root / images))
    found = sorted((name for name in files if is_image_name(os.path.basename(name))), key=Path)
    if not found:
        raise UserError(f"{root / images}: there are no images in it. Add some, or name another split.")
    stems = [os.path.join(labels, os.path.splitext(name)[0]) for name in found]
    without = _without_images(root / labels, {composed(os.path.splitext(name)[0]) for name in found})
    notes = (*not_read(root / images, files), *without)
    return SplitFiles(root / images, root / labels, [os.path.join(images, name) for name in found], stems, notes)


def _of_list(root: Path, listed: Path) -> SplitFiles:
    """The images of a list, one per line, relative to the root or to the list's folder, in its order."""
    path, names = root / listed, list[str]()
    for number, line in enumerate(lines(read_text(path)), 1):
        if entry := line.strip().replace("\\", "/"):
            found = _inside(root, (root, path.parent), entry, Path.is_file)
            if found is None:
                raise UserError(
                    f"{path}: line {number}: there is no file {shown(entry)} in {root}. Write its path relative to that folder."
                )
            names.append(str(found))
    if not names:
        raise UserError(f"{path}: the list has no images. Write their paths, one per line.")
    stems = [str(_labels_beside(Path(name).parent) / Path(name).stem) for name in names]
    return SplitFiles(path, root / Path(stems[0]).parent, names, stems)


def _listed(root: Path, split: str) -> list[Path]:
    """The folders and lists that `data.yaml` names for a split, relative to `root`; none if one of them does not exist."""
    if not data_yaml(root).is_file():
        return []
    content = read_keys(data_yaml(root))
    value: Any = next((content[name] for name in spellings(split) if content.get(name)), [])
    base = content.get("path")
    places = (root / base, root) if isinstance(base, str) else (root,)
    found = [
        _inside(root, places, value, lambda place: place.is_dir() or (place.suffix.lower() == ".txt" and place.is_file()))
        for value in (value if isinstance(value, list) else [value])
    ]
    there = [place for place in found if place is not None]
    return there if len(there) == len(found) else []


def _inside(root: Path, places: Sequence[Path], value: object, there: Callable[[Path], bool]) -> Path | None:
    """Resolves a path from one of several folders, relative to `root`; None if it is not inside.

    Exporters write it with a needless `../`.
    """
    if not isinstance(value, str) or "\0" in value or not value:
        return None
    relative = value
    while relative.startswith(("../", "./")):
        relative = relative.split("/", 1)[1]
    for place in places:
        for name in (value, relative):
            found = Path(os.path.normpath(place / as_stored(place, name)))
            if found.is_relative_to(os.path.normpath(root)) and there(found):
                return Path(os.path.relpath(found, root))
    return None


def _without_images(labels: Path, stems: set[str]) -> tuple[str, ...]:
    """A message, if some label files, but not all, have no image of their name."""
    texts = [name for name in files_below(labels) if _is_label(os.path.basename(name))] if labels.is_dir() else []
    alone = sorted(name for name in texts if composed(os.path.splitext(name)[0]) not in stems)
    if not alone or len(alone) == len(texts):
        return ()
    return (f"{labels / alone[0]}: there is no image of this name. {len(alone)} of {len(texts)} label files have no image.",)


def values_of_keypoints(root: Path) -> int | None:
    """The number of keypoint values after a box, from `kpt_shape` of `data.yaml`; 0 without it.

    Raises:
        UserError: if it is not two numbers.
    """
    path = data_yaml(root)
    value = read_keys(path).get("kpt_shape") if path.is_file() else None
    if value is None:
        return None
    points, each = map(values.integer, value) if isinstance(value, list) and len(value) == 2 else (None, None)
    if points is None or points < 0 or each not in (2, 3):
        raise UserError(f"{path}: kpt_shape is {shown(value)}. Write the number of keypoints and 2 or 3, as [17, 3].")
    return points * each


def _labels_beside(images: Path) -> Path:
    """Replaces the last folder `images` in a path by `labels`; unchanged without one."""
    parts = list(images.parts)
    for place in reversed(range(len(parts))):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def labels_elsewhere(root: Path, images: Path, labels: Path) -> str | None:
    """Where labels are instead of in their folder, and what to do; None if there are none."""
    beside = _texts(images) if images.is_dir() else 0
    if beside:
        return f"{beside} .txt files are beside the images. Move them to {labels}"
    inside = _texts(labels) if labels.is_dir() else 0
    if inside:
        return f"{inside} .txt files in it have no image of their name. Give each the name of its image"
    for place in (root / "labels", root):
        count = sum(_is_label(name) for name in os.listdir(place)) if place.is_dir() else 0
        if count > (place == root):
            return f"{count} .txt files are in {place}. Move those of this split to {labels}"
    return None


def _texts(folder: Path) -> int:
    return sum(_is_label(os.path.basename(name)) for name in files_below(folder))


def _is_label(name: str) -> bool:
    return name.lower().endswith(".txt") and not name.startswith(".") and name.lower() not in ("classes.txt", "readme.txt")


def class_names(root: Path) -> tuple[str, ...]:
    """The lines of `classes.txt`, else `names` of `data.yaml`.

    Raises:
        UserError: if there is neither, or they are not names of classes numbered from 0.
    """
    listed = read_class_names(root)
    if listed is not None:
        return listed
    path = data_yaml(root)
    if not path.is_file():
        beside = next(root.glob("labels/*/classes.txt"), None) or next(root.glob("*/labels/classes.txt"), None)
        remedy = (
            "Write the names of the classes, one per line."
            if beside is None
            else f"Copy {beside} there, if it is for both splits."
        )
        raise UserError(f"{root / 'classes.txt'}: there is no such file, and no data.yaml. {remedy}")
    content = read_keys(path)
    names = _in_order(path, content.get("names"))
    for number, name in enumerate(names):
        if not isinstance(name, str) or values.name(name) is None:
            raise UserError(f"{path}: the name of class {number} is {shown(name)}, which is not a name. {_WRITE_NAMES}")
        if name.strip() in [other.strip() for other in names[:number]]:
            raise UserError(f"{path}: names has {shown(name)} twice. Give each class a unique name.")
    count = content.get("nc", str(len(names)))
    if values.integer(count) != len(names):
        raise UserError(f"{path}: nc is {shown(count)}, but names has {len(names)}. Correct one of them.")
    return tuple(name.strip() for name in names)


def _in_order(path: Path, names: Any) -> list[Any]:
    """The names from a list, or a dictionary from numbers to names or from names to numbers."""
    if isinstance(names, list) and names:
        return names
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: it has no names of classes. {_WRITE_NAMES}")
    by_number = {values.integer(number): name for number, name in names.items()}
    if None in by_number:
        by_number = {values.integer(number): name for name, number in names.items() if isinstance(number, str)}
    missing = next((number for number in range(len(names)) if number not in by_number), None)
    if missing is not None or len(by_number) != len(names):
        raise UserError(
            f"{path}: names has {len(names)} entries, but none for class {missing or 0}. "
            "Number the classes from 0, without a gap."
        )
    return [by_number[number] for number in range(len(names))]
