"""`yolo`: a text file per image, a line per object: its class, and centre, width and height as shares of the image's sides.

`ROOT/images/SPLIT/*.jpg|png` and `ROOT/labels/SPLIT/*.txt`, or `ROOT/SPLIT/images` and `ROOT/SPLIT/labels`, or the folder that
`ROOT/data.yaml` names for the split; an image without a text file has no objects. A line may hold a polygon instead, the class
and pairs of x and y: its box is taken. Classes are the lines of `ROOT/classes.txt`, or `names` of `ROOT/data.yaml`.
"""

import os
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.by_stem import ByStem
from phalanx.data.files.string_array import StringArray
from phalanx.data.files.text_file import lines, read_text, shown
from phalanx.data.files.values import number, whole
from phalanx.data.files.yolo_files import class_names, image_files, labels_elsewhere, split_folders
from phalanx.data.formats.detected import DetectedImages
from phalanx.data.formats.objects import Faults, Found, fault_of

_REMEDY = "Correct it"


def open_split(config: DataConfig, split: str) -> DetectedImages:
    """The images of a split, sorted by name.

    Raises:
        UserError: where a folder or file is missing or broken, or an object cannot be used.
    """
    root = Path(config.root or "")
    folder, labels = split_folders(root, split)
    images = image_files(folder)
    if not images:
        raise UserError(f"{folder}: there are no images in it. Add some, or name another split.")
    classes = class_names(root)
    text_of = ByStem(labels, [".txt"])
    faults, found, total, with_file = Faults(config.on_error == "skip"), Found(), 0, 0
    for image, name in enumerate(images):
        text = text_of(str(Path(name).with_suffix("")))
        if text is None:
            continue
        with_file += 1
        for place, line in enumerate(lines(read_text(labels / text)), 1):
            if not line.strip():
                continue
            total += 1
            where = f"{labels / text}: line {place}"
            label, box = _object(where, line)
            if not 0 <= label < len(classes):
                problem = f"class {label}, but there are {len(classes)}, from 0"
                faults.add(where, problem, "are of unknown classes", "Correct it, or the names of the classes")
                continue
            if (fault := fault_of(box, 1.0, 1.0)) is not None:
                faults.add(where, *fault, _REMEDY)
                continue
            found.add(image, box, label)
    if not with_file and (elsewhere := labels_elsewhere(root, folder, labels)):
        raise UserError(f"{labels}: there is no label file for any of {len(images)} images in {folder}, but {elsewhere}.")
    names = StringArray.of(os.path.join(os.path.relpath(folder, root), name) for name in images)
    objects = found.arrays(len(images), relative=True)
    looked = f"{labels}: the label files of {with_file} of {len(images)} images"
    return DetectedImages(config, root, names, classes, objects, notes=faults.notes(total), looked=looked)


def _object(where: str, line: str) -> tuple[int, tuple[float, float, float, float]]:
    """Class and box (left, top, right, bottom) of a line."""
    first, *others = line.split()
    label, given = whole(first), [number(value) for value in others]
    numbers = [value for value in given if value is not None]
    if label is None or len(numbers) < len(given):
        raise UserError(f"{where}: {shown(line.strip())} is not a class and numbers. Write it as: class x y width height.")
    if len(numbers) == 4:
        x, y, width, height = numbers
        return label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(numbers) < 6 or len(numbers) % 2:
        raise UserError(
            f"{where}: a class and {len(numbers)} numbers, where a box has 4, and a polygon at least three pairs. "
            "Write it as: class x y width height."
        )
    return label, (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))
