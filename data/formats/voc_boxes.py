"""`voc` with boxes: PASCAL VOC's annotations of objects, an XML file per image.

Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010; devkit_doc, section 8.1. Objects that are marked
as difficult are not learnt, and excuse detections in evaluation. VOC counts pixels from 1, and a box includes its
last ones; it becomes left - 1, top - 1, right, bottom, from 0 and exclusive.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.by_stem import ByStem
from phalanx.data.files.class_names import read_class_names
from phalanx.data.files.objects import Faults, Found, fault_of
from phalanx.data.files.same_name import differ_in_case
from phalanx.data.files.string_array import StringArray
from phalanx.data.files.text_file import shown
from phalanx.data.files.values import flag, integer, number
from phalanx.data.files.voc_files import listed_again, read_stems, read_xml
from phalanx.data.formats.detected import DetectedImages
from phalanx.data.images.image_formats import SUFFIXES
from phalanx.data.images.image_header import read_header

_REMEDY = "Correct it"
_MOST = 1 << 31  # pixels of a side


def open_boxes(config: DataConfig, root: Path, split: str) -> DetectedImages:
    """The images that `ImageSets/Main/SPLIT.txt` lists, in its order.

    Classes are those of `ROOT/classes.txt`, else all in the annotations of the training split, sorted.

    Raises:
        UserError: if a file is missing or broken, or an object cannot be used.
    """
    annotations = ByStem(root / "Annotations", [".xml"])
    pictures = ByStem(root / "JPEGImages", SUFFIXES)
    stems = _stems(root, split, annotations)
    classes = read_class_names(root) or _named(root, _stems(root, config.train_split, annotations), annotations)
    labels = {name: label for label, name in enumerate(classes)}
    faults, found, sizes = Faults(config.on_error == "skip"), Found(), _Sizes()
    names, total = [], 0
    for image, stem in enumerate(stems):
        path = _annotation(root, stem, annotations)
        tree = read_xml(path)
        names.append(f"JPEGImages/{pictures(stem) or f'{stem}.jpg'}")
        height, width = sizes.add(path, tree, root / names[-1])
        for place, part in enumerate(tree.iter("object"), 1):
            total += 1
            where = f"{path}: object {place}"
            name = _name(part)
            if name not in labels:
                faults.add(where, *_unknown(config, root, name))
                continue
            left, top, right, bottom = (_number(where, part, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            box = (left - 1, top - 1, right, bottom)
            if (fault := fault_of(box, width, height)) is not None:
                faults.add(where, *fault, _REMEDY)
                continue
            found.add(image, box, labels[name], _difficult(where, part))
    notes = (
        *differ_in_case(str(root / "Annotations"), classes),
        *faults.notes(total),
        *sizes.notes(),
        *listed_again(lists(root, split), stems),
    )
    known = numpy.array(sizes.found, numpy.int32).reshape(-1, 2)
    looked = f"{root / 'Annotations'}: the {len(stems)} annotations that {lists(root, split)} lists"
    return DetectedImages(config, root, StringArray.of(names), classes, found.arrays(len(stems)), known, notes, looked=looked)


def lists(root: Path, split: str) -> Path:
    """The list of a split's images."""
    return root / "ImageSets" / "Main" / f"{split}.txt"


@dataclass
class _Sizes:
    """Heights and widths of images: from the annotation, or if that has none, from the image file.

    Attributes:
        found: the size of each image, 0 if the file is not an image either.
    """

    found: list[tuple[int, int]] = field(default_factory=list)
    _without: list[Path] = field(default_factory=list)

    def add(self, path: Path, tree: ElementTree.Element, image: Path) -> tuple[int, int]:
        height, width = (integer(tree.findtext(f"size/{side}")) or 0 for side in ("height", "width"))
        if not (0 < height < _MOST and 0 < width < _MOST):
            self._without.append(path)
            header = read_header(image)
            height, width = (0, 0) if header is None else header.upright
        self.found.append((height, width))
        return height, width

    def notes(self) -> tuple[str, ...]:
        if not self._without:
            return ()
        return (
            f"{self._without[0]}: its size is missing, or is not a size. {len(self._without)} of {len(self.found)} annotations "
            "have none: the sizes of their image files are used.",
        )


def _stems(root: Path, split: str, annotations: Callable[[str], str | None]) -> list[str]:
    listed = lists(root, split)
    if not listed.is_file():
        raise UserError(
            f"{listed}: there is no such file. Set data.train_split and data.val_split to lists in {listed.parent}."
        )
    return read_stems(listed, annotations)


def _annotation(root: Path, stem: str, annotations: Callable[[str], str | None]) -> Path:
    name = annotations(stem)
    if name is None:
        path = root / "Annotations" / f"{stem}.xml"
        raise UserError(f"{path}: there is no such file, but the split lists {stem}. Add it, or remove it from the list.")
    return root / "Annotations" / name


def _unknown(config: DataConfig, root: Path, name: str) -> tuple[str, str, str]:
    """Problem, kind and remedy of an object of an unknown class."""
    if not name:
        return "it has no name", "have no name of a class", "Name its class"
    source = "classes.txt" if (root / "classes.txt").is_file() else f"the annotations of {config.train_split}"
    return f"the class {shown(name)} is not in {source}", "are of unknown classes", "Add it to classes.txt"


def _name(part: ElementTree.Element) -> str:
    """The name of an object's class, on one line: tools break long ones."""
    return " ".join((part.findtext("name") or "").split())


def _number(where: str, part: ElementTree.Element, name: str) -> float:
    text = part.findtext(name)
    value = number(text)
    if value is None:
        rotated = ": its box is a rotated one" if part.find("robndbox") is not None else ""
        problem = f"is missing{rotated}" if text is None else f"is not a number: {shown(text)}"
        raise UserError(f"{where}: {name} {problem}. Write it into the annotation.")
    return value


def _difficult(where: str, part: ElementTree.Element) -> bool:
    text = (part.findtext("difficult") or "0").strip() or "0"
    value = flag(text)
    if value is None:
        raise UserError(
            f"{where}: difficult is {shown(text)}, which is neither 0 nor 1. Write one of them into the annotation."
        )
    return value


def _named(root: Path, stems: list[str], annotations: Callable[[str], str | None]) -> tuple[str, ...]:
    """The names of the classes in annotations, sorted."""
    found = {_name(part) for stem in stems for part in read_xml(_annotation(root, stem, annotations)).iter("object")}
    if not found - {""}:
        raise UserError(
            f"{root / 'Annotations'}: the {len(stems)} annotations of the training split have no object with a name, so that "
            "nothing can be learnt. Check them, or write the names of the classes into classes.txt."
        )
    return tuple(sorted(found - {""}))
