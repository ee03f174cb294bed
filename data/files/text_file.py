"""The text of data files of any origin: labels, lists, names of classes, XML, YAML, JSON. No torch here.

Accepted encodings are self-describing: UTF-8, and UTF-16 and UTF-32 with a byte order mark. The meaning of others depends on
the machine that wrote them, so they are refused instead of guessed.
"""

import codecs
from pathlib import Path
from typing import Any

from phalanx.configs.errors import UserError

_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SHOWN = 60  # characters of a value that a message shows


def read_text(path: Path) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        UserError: if it cannot be read, or is not text in an accepted encoding, naming the line.
    """
    return decoded(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: this is not a regular file. Replace it with one.")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        if isinstance(error, UserError):
            raise
        raise UserError(f"{shown(str(path))}: it cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def decoded(content: bytes, file: str, declared: str | None = None) -> str:
    """Decodes text.

    Args:
        file: for messages.
        declared: the encoding that the file itself names, used without a byte order mark.
    """
    mark, encoding = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", declared or "utf-8"))
    content = content[len(mark) :]
    if encoding == "utf-8" and b"\0" in content:
        raise _nul(file, content.count(b"\n", 0, content.index(b"\0")) + 1)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(_newline(encoding), 0, error.start) + 1
        byte = f"byte 0x{content[error.start]:02X}" if error.start < len(content) else "its end"
        guess = "" if mark or declared else "; programs on Windows often write Latin-1 (Windows-1252) or GBK"
        raise UserError(
            f"{file}: line {line}: {byte} is not {encoding.upper()}{guess}. Save the file as UTF-8, for example by "
            f"iconv -f {'ENCODING' if mark or declared else 'LATIN1'} -t UTF-8."
        ) from None
    if "\0" in text:
        raise _nul(file, text.count("\n", 0, text.index("\0")) + 1)
    return text


def _nul(file: str, line: int) -> UserError:
    return UserError(
        f"{file}: line {line} holds a NUL character, as UTF-16 without a byte order mark and binary files do. "
        "Save the file as UTF-8."
    )


def _newline(encoding: str) -> bytes:
    try:
        return "\n".encode(encoding)
    except UnicodeEncodeError:
        return b"\n"


def lines(text: str) -> list[str]:
    """The lines of a text, by the line ends of editors: `str.splitlines` also splits at characters that a name may contain."""
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def shown(value: Any) -> str:
    """A value as messages show it: short, printable, on one line."""
    if isinstance(value, list | tuple):
        flat = len(value) <= 4 and not any(isinstance(item, list | tuple | dict) for item in value)
        return f"[{', '.join(map(shown, value))}]" if flat else f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"a dictionary of {len(value)}"
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
