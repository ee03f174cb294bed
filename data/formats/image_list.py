"""`list`: one CSV file per split, one line per image: `path,label`, or `path,label1;label2` if images have several labels.

Paths are relative to `data.root`; a first line that names the columns is skipped. Classes are those of the training list,
sorted (by number, if all are numbers), or the lines of `ROOT/classes.txt`, by name or by number from 0.
"""

import csv
import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import numpy
from numpy.typing import NDArray

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.class_names import read_class_names
from phalanx.data.files.same_name import as_stored, composed, differ_in_case, one_spelling
from phalanx.data.files.string_array import StringArray
from phalanx.data.files.text_file import read_text, shown
from phalanx.data.files.values import has_control
from phalanx.data.formats.labelled import LabelledImages, MultiLabelImages

_SEPARATOR = ";"
_OTHER_MARKS = {b";": "semicolon", b"\t": "tab"}
_BLANKS = re.compile(rb"(?<![ \t])[ \t]*([,\n])[ \t]*")  # beside commas and at the ends of lines
_BLANKS_AFTER_QUOTES = re.compile(rb'"[ \t]+([,\n])')
# Usual names of the columns, without blanks and underscores.
_PATH_TITLES = {
    *("path", "paths", "image", "images", "img", "imgs", "file", "files", "filename", "filenames", "filepath", "imagepath"),
    *("imagename", "imagefile", "imageid", "imgpath", "imgname", "imgid", "name", "id", "url", "photo", "picture", "x"),
}
_LABEL_TITLES = {
    *("label", "labels", "labelname", "labelid", "class", "classes", "classname", "classid", "target", "targets", "category"),
    *("categories", "categoryid", "tag", "tags", "mask", "masks", "maskpath", "annotation", "y"),
}


@dataclass(frozen=True)
class Lines:
    """A CSV file of two columns.

    Attributes:
        file: its path.
        lines: int64, the number of each line with a sample.
        names: first column.
        words: each distinct text in the second column.
        numbers: int32, which of the words each line has.
        repeated: number of lines that repeat an image.
    """

    file: Path
    lines: NDArray[numpy.int64]
    names: StringArray
    words: tuple[str, ...]
    numbers: NDArray[numpy.int32]
    repeated: int = 0

    def where(self, word: str) -> str:
        """The first line with such a second column."""
        row = int(numpy.flatnonzero(self.numbers == self.words.index(word))[0])
        return f"{self.file}: line {self.lines[row]}"


def list_file(config: DataConfig, split: str) -> Path:
    """`ROOT/SPLIT` or `ROOT/SPLIT.csv`."""
    path = Path(config.root or "", split)
    return path if path.suffix else path.with_name(f"{path.name}.csv")


def read_list(path: Path) -> Lines:
    """Reads a CSV file of two columns.

    Raises:
        UserError: if it is missing, empty, or not such a file, naming the line.
    """
    if not path.is_file():
        text = path.with_suffix(".txt")
        if path.suffix == ".csv" and text.is_file():
            remedy = f"If its lines are path,label, set data.train_split and data.val_split to names such as {text.name}"
            raise UserError(f"{path}: there is no such file, but {text.name} lies beside it. {remedy}.")
        raise UserError(f"{path}: there is no such file. Set data.train_split and data.val_split to the lists in data.root.")
    stat = path.stat()
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)  # the validation split reads the training list too
def _read(path: Path, changed: int, size: int) -> Lines:
    content = read_text(path).replace("\r\n", "\n").replace("\r", "\n").encode().rstrip()
    if not content.strip():
        raise UserError(f"{path}: the list has no samples. Add lines `path,label`.")
    read = _by_csv if b'"' in content else _by_commas
    names, paths, labels, rows = read(path, _with_slashes(path, content))
    if not content.isascii():
        names = StringArray.of(as_stored(path.parent, names[place]) for place in range(len(names)))
    title = 1 if _is_title(path, names[0], labels[0].decode()) else 0
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels[title:]))}
    if not numbers:
        raise UserError(f"{path}: the list has no samples, only a title. Add lines `path,label`.")
    lines = numpy.fromiter(map(numbers.__getitem__, labels[title:]), numpy.int32, len(labels) - title)
    hashes = numpy.sort(numpy.fromiter(map(hash, paths), numpy.int64, len(paths)))  # a third of a set's time
    repeated = len(paths) - len(set(paths)) if (hashes[1:] == hashes[:-1]).any() else 0
    return Lines(path, rows[title:], names.after(title), tuple(label.decode() for label in numbers), lines, repeated)


def _with_slashes(path: Path, content: bytes) -> bytes:
    """Replaces backslashes in a list's paths by slashes, unless a file has such a name."""
    if b"\\" not in content:
        return content
    first = next(line for line in content.split(b"\n") if b"\\" in line).split(b",")[0].strip(b' \t"').decode()
    there, meant = path.parent / first, path.parent / first.replace("\\", "/")
    return content if there.exists() or not meant.exists() else content.replace(b"\\", b"/")


def _is_title(path: Path, first: str, second: str) -> bool:
    """Whether a first line names the columns.

    Raises:
        UserError: if it names them in another order.
    """
    left, right = (re.sub(r"[\W_]+", "", text.casefold()) for text in (first, second))
    if not (left in _PATH_TITLES or right in _LABEL_TITLES | _PATH_TITLES) or (path.parent / first).is_file():
        return False
    if left in _LABEL_TITLES and right in _PATH_TITLES:
        raise UserError(f"{path}: line 1 names the columns {first} and {second}. Write the path first, then the label.")
    return left in _PATH_TITLES or right in _LABEL_TITLES


def _by_commas(path: Path, content: bytes) -> tuple[StringArray, list[bytes], list[bytes], NDArray[numpy.int64]]:
    """Paths, labels and numbers of lines of a file without quotation marks: a million lines in well under a second."""
    if b" " in content or b"\t" in content:
        content = _BLANKS.sub(rb"\1", content).strip(b" \t")
    rows = numpy.arange(1, content.count(b"\n") + 2)
    if b"\n\n" in content or content.startswith(b"\n"):
        lines = content.split(b"\n")
        rows = rows[[bool(line) for line in lines]]
        content = b"\n".join(line for line in lines if line)
    characters = numpy.frombuffer(content, numpy.uint8)
    ends = numpy.append(numpy.flatnonzero(characters == ord("\n")), len(content))
    starts = numpy.concatenate([[0], ends[:-1] + 1])
    commas = numpy.flatnonzero(characters == ord(","))
    if len(commas) != len(ends) or (commas <= starts).any() or (commas >= ends).any():
        _refuse(path, [line.split(b",") for line in content.split(b"\n")], rows)
    fields = content.replace(b"\n", b",").split(b",")
    return StringArray(characters, starts, commas), fields[0::2], fields[1::2], rows


def _by_csv(path: Path, content: bytes) -> tuple[StringArray, list[bytes], list[bytes], NDArray[numpy.int64]]:
    """The same for files with quotation marks around a path or a label."""
    content = _BLANKS_AFTER_QUOTES.sub(rb'"\1', content)
    try:
        read = csv.reader(io.StringIO(content.decode(), newline=""), strict=True, skipinitialspace=True)
        numbered = [(read.line_num, [field.strip(" \t") for field in row]) for row in read if row]
    except csv.Error as error:
        raise UserError(f"{path}: this is not a CSV file: {error}. Give lines `path,label`.") from None
    lines, rows = numpy.array([number for number, _ in numbered]), [row for _, row in numbered]
    if any(len(row) != 2 or not row[0] for row in rows):
        _refuse(path, [[field.encode() for field in row] for row in rows], lines)
    paths, labels = [name.encode() for name, _ in rows], [label.encode() for _, label in rows]
    return StringArray.of(name for name, _ in rows), paths, labels, lines


def _refuse(path: Path, rows: list[list[bytes]], numbers: NDArray[numpy.int64]) -> NoReturn:
    for number, row in zip(numbers.tolist(), rows, strict=True):
        if len(row) != 2 or not row[0]:
            fields = "no path" if len(row) == 2 else f"{len(row)} field{'s' if len(row) > 1 else ''}"
            other = next((name for mark, name in _OTHER_MARKS.items() if len(row) == 1 and row[0].count(mark) == 1), None)
            remedy = "Correct it." if other is None else f"Separate them by a comma, not by a {other}."
            raise UserError(f"{path}: line {number} has {fields} instead of a path and a label. {remedy}")
    raise AssertionError(path)


def open_split(config: DataConfig, split: str) -> LabelledImages | MultiLabelImages:
    """The images of a list, in its order.

    Raises:
        UserError: if it is not such a list, or has a label that is not a class, naming the line.
    """
    root = Path(config.root or "")
    training, lines = (read_list(list_file(config, name)) for name in (config.train_split, split))
    several = any(_SEPARATOR in word for word in training.words)
    named = read_class_names(root)
    classes = named or _sorted(one_spelling(label for word in training.words for label in _labels(word, several)))
    if odd := next((name for name in classes if has_control(name)), None):
        raise UserError(f"{training.file}: the label {shown(odd)} has a control character. Write it without.")
    numbers = {composed(name): number for number, name in enumerate(classes)}
    if named:
        numbers = {str(number): number for number in range(len(classes))} | numbers
    notes = differ_in_case(str(training.file), classes)
    meant = [
        [_number(label, lines, word, numbers, named, training) for label in _labels(word, several)] for word in lines.words
    ]
    if several:
        counts = numpy.array([len(own) for own in meant], numpy.int64)[lines.numbers]
        ends = numpy.concatenate([[0], numpy.cumsum(counts)])
        starts = numpy.cumsum([0, *map(len, meant)])[:-1][lines.numbers]  # in the concatenated labels of all words
        places = numpy.arange(ends[-1]) - numpy.repeat(ends[:-1] - starts, counts)
        labels = numpy.array([label for own in meant for label in own], numpy.int64)[places]
        looked = f"{lines.file}: its {len(lines.numbers)} lines"
        return MultiLabelImages(config, root, lines.names, classes, labels, ends, looked, notes)
    targets = numpy.array([own[0] for own in meant], numpy.int64)[lines.numbers]
    return LabelledImages(config, root, lines.names, classes, targets, (*notes, *_contradictions(lines)))


def _contradictions(lines: Lines) -> tuple[str, ...]:
    """A message, if an image has several classes, as in files with one line per label."""
    if not lines.repeated:
        return ()
    words: dict[str, set[int]] = {}
    for place, number in enumerate(lines.numbers.tolist()):
        words.setdefault(lines.names[place], set()).add(number)
    several = [name for name, found in words.items() if len(found) > 1]
    again = f"{lines.file}: {lines.repeated} lines repeat an image, which is repeated in every epoch"
    if not several:
        return (f"{again}.",)
    return (
        f"{again}; {len(several)} images have several classes, such as {several[0]}. If an image has them all, write them into "
        "one line, separated by semicolons.",
    )


def _labels(word: str, several: bool) -> list[str]:
    if not several:
        return [word.strip()]
    return [label for part in word.split(_SEPARATOR) if (label := part.strip())]


def _sorted(names: Collection[str]) -> tuple[str, ...]:
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _number(
    label: str, lines: Lines, word: str, numbers: dict[str, int], named: tuple[str, ...] | None, training: Lines
) -> int:
    if label and (number := numbers.get(composed(label))) is not None:
        return number
    if not label:
        raise UserError(f"{lines.where(word)} has no label. Add it, or remove the line.")
    if named:
        there = f"classes.txt names {len(named)} classes (0 to {len(named) - 1})"
        raise UserError(f"{lines.where(word)} has the label {label}, but {there}. Correct the line, or classes.txt.")
    raise UserError(
        f"{lines.where(word)} has the label {label}, which {training.file} does not have. "
        "Correct it, or name all classes in classes.txt, one per line."
    )
