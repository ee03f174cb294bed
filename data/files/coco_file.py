"""COCO's JSON, read and checked. No torch here.

Format: cocodataset.org/#format-data. Numbers may be strings, sides `64.0`, and ids of any size, as many tools write them.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from phalanx.configs.errors import UserError
from phalanx.configs.text.json_text import KeyTwice, each_key_once, explain
from phalanx.data.files.text_file import decoded, read_bytes, shown
from phalanx.data.files.values import flag, integer, key, name, number

_REMEDY = "Give a file in COCO's format, with images, annotations and categories."
_AROUND = 25  # characters shown before and after a broken place
_MOST = 1 << 31  # pixels of a side


class ListedImage(NamedTuple):
    """An image. Its height and width are 0 if the file lacks them; its id is as written."""

    id: int | str
    file_name: str
    height: int
    width: int


class Category(NamedTuple):
    id: int | str
    name: str


class Annotation(NamedTuple):
    """An object. Its ids are keys of `Content.images` and `Content.categories`, which may lack them.

    Attributes:
        called: what it is called in sentences: by its id, or where it has none by its place in the list, from 0.
        box: left, top, width, height.
        area: NaN if it is not annotated.
        outline: `segmentation` as written, unchecked.
    """

    called: str
    image: int | str
    category: int | str
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    outline: Any


@dataclass(frozen=True)
class Content:
    """The content of a file: images and categories by id, in the order of ids."""

    path: Path
    images: dict[int | str, ListedImage]
    categories: dict[int | str, Category]
    _annotations: list[Any]

    def __len__(self) -> int:
        return len(self._annotations)

    def annotations(self) -> Iterator[Annotation]:
        """Yields each annotation.

        Raises:
            UserError: if one is not in COCO's format, naming it.
        """
        seen: set[int | str] = set()
        for place, row in enumerate(self._annotations):
            entry = _Entry(self.path, "annotations", place, row)
            called = f"annotation at place {place}"
            if entry.row.get("id") is not None:  # nothing needs the ids of objects, and some tools write none
                own, _ = entry.id()
                if own in seen:
                    _refuse_twice(self.path, "annotation", own)
                seen.add(own)
                called = f"annotation {shown(own)}"
            yield Annotation(
                called,
                entry.read("image_id", key, "an id"),
                entry.read("category_id", key, "an id"),
                entry.box(),
                entry.area(),
                entry.crowd(),
                row.get("segmentation"),
            )


class _Entry:
    """An entry of one of the lists, which reports its errors."""

    def __init__(self, path: Path, kind: str, place: int, row: Any):
        self._path, self._kind, self._place, self.row = path, kind, place, row
        if not isinstance(row, dict):
            self._refuse(f"is {shown(row)} instead of a dictionary")

    def _refuse(self, problem: str) -> NoReturn:
        own = self.row.get("id") if isinstance(self.row, dict) else None
        known = "" if own is None else f" (id {shown(own)})"
        raise UserError(f"{self._path}: entry {self._place} of '{self._kind}'{known} {problem}. {_REMEDY}")

    def id(self) -> tuple[int | str, int | str]:
        """The id as a key, and as written; a number is an integer in both."""
        found: int | str = self.read("id", key, "an id")
        written = self.row["id"]
        return found, written if isinstance(written, str) else found

    def read(self, field: str, reader: Callable[[Any], Any], wanted: str) -> Any:
        if field not in self.row:
            self._refuse(f"has no {field!r}")
        value = reader(self.row[field])
        if value is None:
            self._refuse(f"has the {field!r} {shown(self.row[field])}, which is not {wanted}")
        return value

    def side(self, field: str) -> int:
        """Pixels; 0 if missing."""
        if self.row.get(field) is None:
            return 0
        value: int = self.read(field, integer, "an integer number of pixels")
        if not 0 <= value < _MOST:
            self._refuse(f"has the {field!r} {shown(self.row[field])}, which is not an image size")
        return value

    def box(self) -> tuple[float, float, float, float]:
        given = self.read("bbox", lambda value: value if isinstance(value, list) else None, "four numbers")
        left, top, width, height = [number(value) for value in given] if len(given) == 4 else [None] * 4
        if left is None or top is None or width is None or height is None:
            self._refuse(f"has the 'bbox' {shown(given)}, which is not four numbers")
        return left, top, width, height

    def area(self) -> float:
        if self.row.get("area") is None:
            return math.nan
        value: float = self.read("area", number, "a number")
        if value < 0 or math.isinf(value):
            self._refuse(
                f"has the 'area' {shown(self.row['area'])}, which is not an area; without one its mask's or box's is used"
            )
        return value

    def crowd(self) -> bool:
        value = flag(self.row.get("iscrowd"))
        if value is None:
            self._refuse(f"has the 'iscrowd' {shown(self.row['iscrowd'])}, which is neither 0 nor 1")
        return value


def read_coco(path: Path) -> Content:
    """The content of a file.

    Raises:
        UserError: if it is not COCO's, naming the entry.
    """
    content = _json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: this is JSON, but not COCO's: it holds {shown(content)}, not a dictionary. {_REMEDY}")
    for kind in ("images", "annotations", "categories"):
        if not isinstance(content.get(kind), list):
            raise UserError(f"{path}: this is JSON, but not COCO's: it has no list {kind!r}. {_REMEDY}")
        if not content[kind] and kind != "annotations":
            raise UserError(f"{path}: its list {kind!r} is empty. {_REMEDY}")
    images: dict[int | str, ListedImage] = {}
    for place, row in enumerate(content["images"]):
        entry = _Entry(path, "images", place, row)
        own, written = entry.id()
        if own in images:
            _refuse_twice(path, "image", own)
        file_name = entry.read("file_name", lambda value: name(value) if isinstance(value, str) else None, "a file's name")
        images[own] = ListedImage(written, file_name, entry.side("height"), entry.side("width"))
    categories: dict[int | str, Category] = {}
    for place, row in enumerate(content["categories"]):
        entry = _Entry(path, "categories", place, row)
        own, written = entry.id()
        if own in categories:
            _refuse_twice(path, "category", own)
        categories[own] = Category(written, entry.read("name", name, "a name").strip())
    images = {own: images[own] for own in sorted(images, key=_numbers_first)}
    categories = {own: categories[own] for own in sorted(categories, key=_numbers_first)}
    return Content(path, images, categories, content["annotations"])


def _json(path: Path) -> Any:
    text = decoded(read_bytes(path), str(path))
    try:
        return json.loads(text, object_pairs_hook=each_key_once)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        around = shown(text[max(0, error.pos - _AROUND) : error.pos + _AROUND])
        raise UserError(f"{path}: this is not JSON: {place}, in {around}: {explain(error)}. {_REMEDY}") from None
    except RecursionError:
        raise UserError(f"{path}: this JSON is nested too deeply. {_REMEDY}") from None
    except KeyTwice as fault:
        raise UserError(f"{path}: in one of its objects {fault}, and one of the two would be lost. Keep one of them.") from None
    except ValueError:  # Python's bound on the digits of an integer
        raise UserError(f"{path}: this JSON has a number of thousands of digits. {_REMEDY}") from None


def _numbers_first(own: int | str) -> tuple[bool, int | str]:
    """A sort key for ids, which may be numbers and strings in one file."""
    return isinstance(own, str), own


def _refuse_twice(path: Path, what: str, own: int | str) -> NoReturn:
    raise UserError(f"{path}: the {what} id {shown(own)} occurs twice. Give each {what} a unique id.")
