"""The IDX format, of MNIST and similar datasets: a magic number, the sides, the bytes."""

import gzip
import zlib
from pathlib import Path

import numpy
from numpy.typing import NDArray

from phalanx.configs.errors import UserError

_UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> NDArray[numpy.uint8]:
    """An IDX file of bytes, gzipped or not.

    Raises:
        UserError: naming the file that is missing or broken.
    """
    dotted = path.with_name(path.name.replace("-idx", ".idx"))  # as Kaggle's copies are named
    places = [place for name in (path, dotted) for place in (name, name / name.name, name.with_name(f"{name.name}.gz"))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"{path}[.gz]: there is no such file. Set data.root to the folder that holds it.")
    try:
        raw = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        magic = numpy.frombuffer(raw, ">u1", count=4)
        sides = numpy.frombuffer(raw, ">u4", count=dimensions, offset=4).tolist()
        if tuple(magic) != (0, 0, _UNSIGNED_BYTE, dimensions) or 0 in sides[1:]:
            raise ValueError
        return numpy.frombuffer(raw, numpy.uint8, offset=4 + 4 * dimensions).reshape(sides)
    except (OSError, EOFError, ValueError, zlib.error):
        raise UserError(f"{path}[.gz]: this is not a complete IDX file of {dimensions} dimensions. Get it again.") from None
