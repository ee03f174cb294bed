"""Text files: UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one; others are refused with the line."""

import codecs
import os
import re
import stat

from phalanx.configs import credentials, places
from phalanx.configs.origin import Origin, Problem

LARGEST = 1 << 20
"""The largest accepted recipe or settings file in bytes: a thousand times the usual size."""

_MARKS = (  # UTF-32's first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_SHOWN = 80


def decode(raw: bytes) -> str:
    """The text of a file.

    Raises:
        ValueError: with the byte and line that are not text, and what to do.
    """
    encoding = next((encoding for mark, encoding in _MARKS if raw.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in raw:
        nulls = raw.count(b"\0")
        if nulls * 3 > len(raw) and len(raw) % 2 == 0:
            raise ValueError("this looks like UTF-16 without a byte order mark. Save the file as UTF-8")
        raise ValueError(f"this is not a text file: line {_line(raw, raw.index(0))} holds a NUL byte. Give a text file")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding in ("utf-16", "utf-32"):
            name = encoding.upper()
            raise ValueError(f"this begins as {name}, but byte {error.start + 1} is not {name}. Save it as UTF-8") from None
        line, byte = _line(raw, error.start), error.object[error.start]
        raise ValueError(
            f"line {line} holds the byte 0x{byte:02X}, which is not UTF-8 (Latin-1, GBK or a binary file?). Save it as UTF-8"
        ) from None


def _line(raw: bytes, position: int) -> int:
    return raw.count(b"\n", 0, position) + 1


def read_text(path: str, wanted: str = "YAML") -> str:
    """The text of a file.

    Args:
        wanted: what the file should hold, for the message.

    Raises:
        Problem: if it does not exist, or is not text.
    """
    origin = Origin(brief(path, 300))
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError
            if not stat.S_ISREG(mode):
                raise Problem(origin, f"this is a pipe or a device, which can be read only once. Give a {wanted} file.")
            raw = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise Problem(origin, f"there is no such file{places.beginning(path)}. Check the path.") from None
    except IsADirectoryError:
        raise Problem(origin, f"this is a folder. Give a {wanted} file.") from None
    except ValueError:  # a NUL in the path
        raise Problem(Origin(repr(path)), "this is not a valid path. Check it.") from None
    except OSError as error:
        raise Problem(origin, f"the file cannot be read: {error.strerror}.") from None
    if len(raw) > LARGEST:
        raise Problem(origin, f"the file is larger than {LARGEST >> 20} MB. Give a {wanted} file of settings.")
    try:
        text = decode(raw)
    except ValueError as error:
        raise Problem(origin, f"{error}.") from None
    if (unseen := control(text)) is not None:
        raise Problem(Origin(path, unseen[1]), f"{line_of(text, unseen[1])}: {unseen[0]} is in this line. Remove it.")
    return text


def control(text: str) -> tuple[str, int] | None:
    """The description and line of the first invisible character; None without one."""
    if (found := _CONTROL.search(text)) is None:
        return None
    name = "half a character" if "\ud800" <= found[0] <= "\udfff" else f"the control character U+{ord(found[0]):04X}"
    return name, text.count("\n", 0, found.start()) + 1


def has_control(text: str) -> bool:
    """Whether text holds invisible characters, half of a surrogate pair, or a second line."""
    return _CONTROL.search(text) is not None or bool(re.search("[\n\r\x85\u2028\u2029]", text))


def line_of(text: str, line: int | None) -> str:
    """A line of a text, counted from 1, for a message: short, printable, and not shown if it holds a key."""
    lines = re.split("\r\n|\n|\r|\x85|\u2028|\u2029", text)
    if line is None or not 0 < line <= len(lines) or not lines[line - 1].strip():
        return "the text"
    return f"`{brief(lines[line - 1].strip())}`"


def brief(value: object, length: int = _SHOWN) -> str:
    """A value for a message: short, printable, and not shown if it holds a key, token or password."""
    try:
        text = str(value)
    except ValueError:  # Python does not print numbers of more than 4,300 digits
        text = "a number of thousands of digits"
    if credentials.found(text[:4096]):
        return "(not shown: it holds a key)"
    cut = text if len(text) <= length else f"{text[: length - 20]}... ({len(text)} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in cut)
