"""`voc` with boxes: PASCAL VOC's annotations of objects, an XML file an image.

Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010; devkit_doc, section 8.1. Objects that are marked
as difficult are not learnt, and excuse detections in evaluation. There pixels are counted from 1, and a box holds its last
ones: it becomes left - 1, top - 1, right, bottom, from 0 and without them.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy

from phalanx.configs.data import DataConfig
from phalanx.configs.errors import UserError
from phalanx.data.class_names import read_class_names
from phalanx.data.detected import DetectedImages
from phalanx.data.names import Names
from phalanx.data.objects import Faults, Found, fault_of

_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_REMEDY = "Correct it"


def open_boxes(config: DataConfig, root: Path, split: str) -> DetectedImages:
    """The images that `ImageSets/Main/SPLIT.txt` lists, in its order.

    Classes are those of `ROOT/classes.txt`, else all that the annotations of the training split name, sorted.

    Raises:
        UserError: where a file is missing or broken, or an object cannot be used.
    """
    stems = _stems(root, split)
    classes = read_class_names(root) or _named(root, _stems(root, config.train_split))
    labels = {name: label for label, name in enumerate(classes)}
    faults, found = Faults(config.on_error == "skip"), Found()
    sizes, names, total = [], [], 0
    for image, stem in enumerate(stems):
        path = _annotation(root, stem)
        tree = _read(path)
        width, height = (int(_number(path, tree, f"size/{side}")) for side in ("width", "height"))
        sizes.append((height, width))
        names.append(_image(root, stem))
        for place, part in enumerate(tree.iter("object"), 1):
            total += 1
            where = f"{path}: object {place}"
            name = (part.findtext("name") or "").strip()
            if name not in labels:
                source = "classes.txt" if (root / "classes.txt").is_file() else f"the annotations of {config.train_split}"
                faults.add(where, f"the class {name!r} is not in {source}", "are of unknown classes", "Add it to classes.txt")
                continue
            left, top, right, bottom = (_number(path, part, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            box = (left - 1, top - 1, right, bottom)
            if (fault := fault_of(box, width, height)) is not None:
                faults.add(where, *fault, _REMEDY)
                continue
            found.add(image, box, labels[name], (part.findtext("difficult") or "0").strip() == "1")
    notes = faults.notes(total)
    told = numpy.array(sizes, numpy.int32).reshape(-1, 2)
    return DetectedImages(config, root, Names.of(names), classes, found.arrays(len(stems)), told, notes)


def lists(root: Path, split: str) -> Path:
    """The list of a split's images."""
    return root / "ImageSets" / "Main" / f"{split}.txt"


def _stems(root: Path, split: str) -> list[str]:
    listed = lists(root, split)
    if not listed.is_file():
        raise UserError(
            f"{listed}: there is no such file. Set data.train_split and data.val_split to lists in {listed.parent}."
        )
    # Lists of one class have a second column.
    return [line.split()[0] for line in listed.read_text().splitlines() if line.strip()]


def _annotation(root: Path, stem: str) -> Path:
    path = root / "Annotations" / f"{stem}.xml"
    if not path.is_file():
        raise UserError(f"{path}: there is no such file, but the split lists {stem}. Add it, or remove it from the list.")
    return path


def _image(root: Path, stem: str) -> str:
    there = (f"JPEGImages/{stem}{suffix}" for suffix in _SUFFIXES)
    return next((name for name in there if (root / name).is_file()), f"JPEGImages/{stem}.jpg")


def _read(path: Path) -> ElementTree.Element:
    content = path.read_bytes()
    # Entities could make gigabytes of a few lines; annotations have no use for them.
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise UserError(f"{path}: this XML defines a document type, which annotations have no use for. Remove the definition.")
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: this is no whole XML ({error}). Write it again.") from None


def _number(path: Path, part: ElementTree.Element, name: str) -> float:
    text = part.findtext(name)
    try:
        return float(text or "")
    except ValueError:
        said = "is missing" if text is None else f"is no number: {text!r}"
        raise UserError(f"{path}: {name} {said}. Write it into the annotation.") from None


def _named(root: Path, stems: list[str]) -> tuple[str, ...]:
    """Names of the classes in annotations, sorted."""
    found = {(part.findtext("name") or "").strip() for stem in stems for part in _read(_annotation(root, stem)).iter("object")}
    return tuple(sorted(found))
