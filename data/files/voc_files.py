"""PASCAL VOC's lists of files, and its XML. No torch here."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from phalanx.configs.errors import UserError
from phalanx.data.files.text_file import decoded, lines, read_bytes, read_text, shown
from phalanx.data.images.image_formats import SUFFIXES

_FLAG = re.compile(r"(.*\S)\s+(-1|0|1)", re.DOTALL)  # lists of one class add whether an image has it
_TWO_PATHS = re.compile(r"(\S+\.[A-Za-z]{2,5})[\s,]+(\S+\.(?:xml|png|json|txt))", re.IGNORECASE)
_DECLARED = re.compile(rb"""\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_ENCODINGS = re.compile(
    r"utf-?8|(us-)?ascii|latin-?[0-9]|iso-?8859-[0-9]+|windows-[0-9]+|cp[0-9]+|gbk|gb2312|gb18030|big5|shift[_-]jis|"
    r"euc-(jp|kr)|koi8-[ru]",
    re.IGNORECASE,
)

_BROKEN = {  # expat's messages, and ours
    "no element found": "the text ends before the annotation does",
    "mismatched tag": "another element is closed than the one that is open",
    "unclosed": "what begins here does not end",
    "junk after": "something follows after the annotation",
    "undefined entity": "an & begins a name that XML does not know; write &amp; for the character",
    "invalid token": "a character is in an invalid place; write &amp; for & and &lt; for < in names",
    "duplicate attribute": "an attribute occurs twice",
    "unbound prefix": "the name has a prefix, as in a:b, which is not defined",
    "invalid character": "a character reference is not valid in XML",
    "declaration not at start": "the line <?xml ...?> is not the first",
}


def read_stems(listed: Path, there: Callable[[str], str | None]) -> list[str]:
    """The names in a list, one per line: without suffix, possibly with a folder or blanks.

    Args:
        there: returns the file of a name, or None. It decides the meaning of a line that ends in -1, 0 or 1, as in lists
            of one class, or in the suffix of an image.

    Raises:
        UserError: if the list cannot be read, is empty, or leads out of its folders.
    """
    stems = []
    for number, line in enumerate(lines(read_text(listed)), 1):
        entry = line.strip()
        if not entry:
            continue
        if "\\" in entry and there(entry) is None:
            entry = entry.replace("\\", "/")
        if entry.startswith("/") or ".." in PurePosixPath(entry).parts:
            raise UserError(f"{listed}: line {number}: {shown(entry)} leads out of the dataset. Write only the image's name.")
        if (pair := _TWO_PATHS.fullmatch(entry)) and there(_meant(entry, there)) is None:
            raise UserError(
                f"{listed}: line {number} has two paths, {shown(pair[1])} and {shown(pair[2])}, as PaddlePaddle's lists have. "
                "Write the image's name alone; images lie in JPEGImages, and annotations of the same names in Annotations."
            )
        stems.append(_meant(entry, there))
    if not stems:
        raise UserError(f"{listed}: the list has no images. Write their names, one per line, without the suffix.")
    return stems


def listed_again(listed: Path, stems: Sequence[str]) -> tuple[str, ...]:
    """A message, if a list has a name several times."""
    twice = len(stems) - len(set(stems))
    message = f"{listed}: {twice} of its {len(stems)} lines repeat an image, which is repeated in every epoch."
    return (message,) if twice else ()


def _meant(entry: str, there: Callable[[str], str | None]) -> str:
    flagged = _FLAG.fullmatch(entry)
    name = flagged[1] if flagged else entry
    possible = [entry, name]
    possible += [value[: value.rindex(".")] for value in possible if value.lower().endswith(SUFFIXES)]
    possible += [value.rsplit("/", 1)[1] for value in possible if "/" in value]  # as in JPEGImages/7.jpg
    return next((value for value in possible if there(value) is not None), name)


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an annotation.

    Raises:
        UserError: if it is not VOC's XML.
    """
    text = _xml_text(path)
    # Entities can expand a few lines to gigabytes; annotations do not need them.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{path}: this XML defines a document type, which annotations do not need. Remove the definition.")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        line, column = error.position
        wrong = next((ours for expats, ours in _BROKEN.items() if expats in str(error)), "it is broken here")
        raise UserError(
            f"{path}: line {line}, column {column + 1}: this is not XML: {wrong}. Correct it, or write it again."
        ) from None
    if tree.tag.lower() != "annotation":
        raise UserError(f"{path}: this is XML, but not VOC's: its root is {shown(tree.tag)}, not 'annotation'. Write it again.")
    return tree


def _xml_text(path: Path) -> str:
    content = read_bytes(path)
    found = _DECLARED.match(content)
    declared = found[1].decode() if found else None
    if declared is not None and declared.lower().startswith("utf-16"):
        declared = None  # the text so far is not UTF-16: .NET declares the encoding of its strings, not of the file
    if declared is not None and not _ENCODINGS.fullmatch(declared):
        raise UserError(f"{path}: line 1: the encoding {shown(declared)} is not known. Save the file as UTF-8.")
    try:
        return decoded(content, str(path), declared)
    except LookupError:
        raise UserError(f"{path}: line 1: the encoding {shown(declared)} is not known. Save the file as UTF-8.") from None
