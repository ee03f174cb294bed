"""`yolo`: a text file an image, a line an object: its class, and centre, width and height as shares of the image's sides.

`ROOT/images/SPLIT/*.jpg|png` and `ROOT/labels/SPLIT/*.txt`; an image without a text file has no objects. A line may hold a
polygon instead, the class and pairs of x and y: its box is taken. Classes are the lines of `ROOT/classes.txt`, or `names` of
`ROOT/data.yaml`, a list or a dictionary by number.
"""

from pathlib import Path
from typing import Any

import yaml

from phalanx.configs.data import DataConfig
from phalanx.configs.errors import UserError
from phalanx.data.class_names import read_class_names
from phalanx.data.detected import DetectedImages
from phalanx.data.images import is_image_name
from phalanx.data.names import Names
from phalanx.data.objects import Faults, Found, fault_of

_REMEDY = "Correct it"


def open_split(config: DataConfig, split: str) -> DetectedImages:
    """The images of a split, sorted by name.

    Raises:
        UserError: where a folder or file is missing or broken, or an object cannot be used.
    """
    root = Path(config.root or "")
    folder = root / "images" / split
    if not folder.is_dir():
        raise UserError(
            f"{folder}: there is no such folder. Set data.train_split and data.val_split to those in {folder.parent}."
        )
    images = sorted(path for path in folder.rglob("*") if is_image_name(path.name))
    if not images:
        raise UserError(f"{folder}: there are no images in it. Add some, or name another split.")
    classes = _classes(root)
    faults, found, total = Faults(config.on_error == "skip"), Found(), 0
    for image, path in enumerate(images):
        text = root / "labels" / split / path.relative_to(folder).with_suffix(".txt")
        if not text.is_file():
            continue
        for number, line in enumerate(text.read_text().splitlines(), 1):
            if not line.strip():
                continue
            total += 1
            where = f"{text}: line {number}"
            label, box = _object(where, line)
            if not 0 <= label < len(classes):
                problem = f"class {label}, but there are {len(classes)}, from 0"
                faults.add(where, problem, "are of unknown classes", "Correct it, or the names of the classes")
                continue
            if (fault := fault_of(box, 1.0, 1.0)) is not None:
                faults.add(where, *fault, _REMEDY)
                continue
            found.add(image, box, label)
    names = Names.of(str(path.relative_to(root)) for path in images)
    return DetectedImages(config, root, names, classes, found.arrays(len(images), relative=True), notes=faults.notes(total))


def _object(where: str, line: str) -> tuple[int, tuple[float, float, float, float]]:
    """Class and box (left, top, right, bottom) of a line."""
    try:
        label, *values = line.split()
        numbers = [float(value) for value in values]
        number = int(label)
    except ValueError:
        raise UserError(f"{where}: {line.strip()!r} is not a class and numbers. Write it as: class x y width height.") from None
    if len(numbers) == 4:
        x, y, width, height = numbers
        return number, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(numbers) < 6 or len(numbers) % 2:
        raise UserError(
            f"{where}: a class and {len(numbers)} numbers, where a box has 4, and a polygon at least three pairs. "
            "Write it as: class x y width height."
        )
    return number, (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))


def _classes(root: Path) -> tuple[str, ...]:
    listed = read_class_names(root)
    if listed is not None:
        return listed
    path = root / "data.yaml"
    if not path.is_file():
        raise UserError(
            f"{root / 'classes.txt'}: there is no such file, and no data.yaml. Write the names of the classes, a line each."
        )
    try:
        content: Any = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: this is no YAML ({' '.join(str(error).split())}). Write it again.") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{path}: it has no names of classes. Write names: [first, second], in the order of their numbers.")
    return tuple(str(name) for name in names)
