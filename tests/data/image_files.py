"""Image files byte by byte, of kinds that Pillow does not write."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from PIL import Image


def encoded(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    """A file that Pillow writes."""
    content = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(content, kind, **options)
    return content.getvalue()


def png(width: int, height: int, depth: int, colour: int, lines: bytes, before: bytes = b"") -> bytes:
    """A PNG of lines as they are packed; `before` are whole chunks, such as a palette."""
    size = len(lines) // height
    packed = b"".join(b"\0" + lines[start : start + size] for start in range(0, size * height, size))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff(
    width: int, height: int, data: bytes, bits: int, sample_format: int = 1, photometric: int = 1, samples: int = 1,
    order: str = "<", deflated: bool = False, premultiplied: bool = False, planes: bool = False, extra: Sequence[int] = (),
) -> bytes:  # fmt: skip
    """A TIFF of one strip (TIFF 6.0, section 2); with `planes` it says that each colour lies in a plane of its own.

    Args:
        extra: what up to two samples beside the colours are (ExtraSamples).
    """
    data = zlib.compress(data) if deflated else data
    after = 8 + 2 + 12 * (10 + planes) + 4  # header, tags and where the next ones are: none
    depth = (258, "H", [bits]) if samples == 1 else (258, "I", [after if samples > 2 else bits << 16 | bits])
    tags = [
        *((256, "I", [width]), (257, "I", [height]), depth, (259, "H", [8 if deflated else 1]), (262, "H", [photometric])),
        *((273, "I", [after + 2 * samples]), (277, "H", [samples]), (278, "I", [height]), (279, "I", [len(data)])),
        *([(284, "H", [2])] if planes else []),
        (338, "H", extra or [1]) if extra or premultiplied else (339, "H", [sample_format]),
    ]
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    for number, kind, values in tags:
        of, count = (3, samples) if number == 258 else ({"H": 3, "I": 4}[kind], len(values))
        content += struct.pack(order + "HHI", number, of, count)
        content += struct.pack(f"{order}{len(values)}{kind}", *values).ljust(4, b"\0")
    return content + bytes(4) + struct.pack(order + f"{samples}H", *[bits] * samples) + data


def claiming(content: bytes, width: int, height: int) -> bytes:
    """A JPEG or a PNG whose header claims another size."""
    changed = bytearray(content)
    if content.startswith(b"\x89PNG"):
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
        return bytes(changed)
    frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    changed[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(changed)
