"""`yolo`: one text file per image, one line per object: its class, and centre, width and height as shares of the image's sides.

`ROOT/images/SPLIT/*.jpg|png` and `ROOT/labels/SPLIT/*.txt`, or `ROOT/SPLIT/images` and `ROOT/SPLIT/labels`, or the folder that
`ROOT/data.yaml` names for the split, or a list of images that it names; an image without a text file has no objects. A line may
hold a polygon instead, the class and pairs of x and y: its box is taken; where `data.yaml` has `kpt_shape`, keypoints follow
the box, and are passed over; without it `yolo_keypoints` decides, which is said. Classes are the lines of `ROOT/classes.txt`,
or `names` of `ROOT/data.yaml`.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.by_stem import ByStem
from phalanx.data.files.objects import Faults, Found, fault_of
from phalanx.data.files.string_array import StringArray
from phalanx.data.files.text_file import lines, read_text, shown
from phalanx.data.files.values import integer, number
from phalanx.data.files.yolo_files import SplitFiles, class_names, data_yaml, labels_elsewhere, split_files, values_of_keypoints
from phalanx.data.files.yolo_keypoints import values_after_box
from phalanx.data.formats.detected import DetectedImages

_REMEDY = "Correct it"
_SHARES = "Write shares of the image's sides, from 0 to 1, instead of pixels"
_OF_BOX = 5  # numbers of a line that is a class and a box
_FAR_OUT = 2.0  # a larger number is not a share


def open_split(config: DataConfig, split: str) -> DetectedImages:
    """The images of a split, sorted by name, or in a list's order.

    Raises:
        UserError: if a folder or file is missing or broken, or an object cannot be used.
    """
    root = Path(config.root or "")
    files = split_files(root, split)
    classes, keypoints = class_names(root), values_of_keypoints(root)
    text_of = ByStem(root, [".txt"])
    supposed: tuple[str, ...] = ()
    if keypoints is None:
        keypoints = _supposed_keypoints(root, config.train_split, files)
        supposed = (_said(root, keypoints),) if keypoints else ()
    faults, found, total, with_file = Faults(config.on_error == "skip"), Found(), 0, 0
    for image, stem in enumerate(files.stems):
        text = text_of(stem)
        if text is None:
            continue
        with_file += 1
        for place, line in enumerate(lines(read_text(root / text)), 1):
            if not line.strip():
                continue
            total += 1
            where = f"{root / text}: line {place}"
            label, box = _object(where, line, keypoints)
            if not 0 <= label < len(classes):
                problem = f"class {label}, but there are {len(classes)}, from 0"
                faults.add(where, problem, "are of unknown classes", "Correct it, or the names of the classes")
                continue
            if (fault := fault_of(box, 1.0, 1.0)) is not None:
                faults.add(where, *fault, _SHARES if max(box) > _FAR_OUT else _REMEDY)
                continue
            found.add(image, box, label)
    if not with_file and (elsewhere := labels_elsewhere(root, files.images, files.labels)):
        raise UserError(
            f"{files.labels}: there is no label file for any of {len(files.names)} images in {files.images}, but {elsewhere}."
        )
    objects = found.arrays(len(files.names), relative=True)
    looked = f"{files.labels}: the label files of {with_file} of {len(files.names)} images"
    notes = (*faults.notes(total), *files.notes, *supposed)
    return DetectedImages(config, root, StringArray.of(files.names), classes, objects, notes=notes, looked=looked)


def _supposed_keypoints(root: Path, train_split: str, files: SplitFiles) -> int:
    """How many numbers follow the box of each line where that is not told: in the training split, if this one may have any."""
    own = values_after_box(_lines(root, files))
    longer = own or any(len(line.split()) > _OF_BOX for line in islice(_lines(root, files), 1))
    if not longer:
        return 0
    try:
        training = split_files(root, train_split)
    except UserError:  # a split may be evaluated on a machine that lacks the training images
        return own
    return values_after_box(_lines(root, training)) if training.names != files.names else own


def _lines(root: Path, files: SplitFiles) -> Iterator[str]:
    """The lines of all label files of a split that are not empty."""
    text_of = ByStem(root, [".txt"])
    for stem in files.stems:
        if (text := text_of(stem)) is not None:
            yield from (line for line in lines(read_text(root / text)) if line.strip())


def _said(root: Path, keypoints: int) -> str:
    return (
        f"{data_yaml(root)}: it has no kpt_shape, and every line of the training labels begins with a box that holds the "
        f"points after it, so its {keypoints} last numbers are taken for keypoints. If they are polygons, write "
        "kpt_shape: [0, 2]."
    )


def _object(where: str, line: str, keypoints: int) -> tuple[int, tuple[float, float, float, float]]:
    """Class and box (left, top, right, bottom) of a line, whose box may be followed by `keypoints` numbers."""
    first, *others = line.split()
    label, given = integer(first), [number(value) for value in others]
    numbers = [value for value in given if value is not None]
    if label is None or len(numbers) < len(given):
        raise UserError(f"{where}: {shown(line.strip())} is not a class and numbers. Write it as: class x y width height.")
    if len(numbers) == 4 or (keypoints and len(numbers) == 4 + keypoints):
        x, y, width, height = numbers[:4]
        return label, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if keypoints:
        raise UserError(
            f"{where}: a class and {len(numbers)} numbers, but kpt_shape of data.yaml makes it 4 of the box and {keypoints} of "
            "the keypoints. Correct one of them."
        )
    if len(numbers) < 6 or len(numbers) % 2:
        raise UserError(
            f"{where}: a class and {len(numbers)} numbers, where a box has 4, and a polygon at least three pairs. "
            "Write it as: class x y width height."
        )
    return label, (min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2]))
