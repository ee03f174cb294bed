"""Images of any number of bands, as multispectral and hyperspectral cameras make them: NumPy arrays and TIFF.

Their numbers are kept as they are: uint8 and uint16 stand for 0 to 1 over their whole range, everything else becomes float32,
which `data.mean` and `data.std` must describe.
"""

import importlib.util
import io

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.data.images.image_formats import TIFF, BrokenImage, refuse_too_large

ARRAY, ARRAY_SUFFIX = b"\x93NUMPY", ".npy"
_MOST_BANDS = 10_000
_KEPT = {numpy.dtype("uint8"): torch.uint8, numpy.dtype("uint16"): torch.uint16}
_KINDS = "iuf"  # numbers: signed, unsigned, floating point


def is_banded(content: bytes) -> bool:
    """Whether a file is of a format whose bands are read here."""
    return content.startswith((ARRAY, *TIFF))


def decode_bands(content: bytes, max_pixels: int) -> Tensor:
    """An image with all of its bands.

    Shape: an array [H, W] or [H, W, bands]; a TIFF with bands in its samples, its planes or its pages. To [bands, H, W], uint8,
        uint16 or float32.

    Raises:
        BrokenImage: if it cannot be read, or is no image.
        TooLarge: if it has more pixels than `max_pixels`.
    """
    values = _of_array(content, max_pixels) if content.startswith(ARRAY) else _of_tiff(content, max_pixels)
    if values.dtype.kind not in _KINDS:
        raise BrokenImage(f"it holds {values.dtype}, which are no numbers of an image")
    if values.dtype.newbyteorder("=") not in _KEPT:
        values = values.astype(numpy.float32)
        if not numpy.isfinite(values).all():
            raise BrokenImage("it holds NaN or infinity")
    native = numpy.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))
    return torch.from_numpy(native.copy() if not native.flags.writeable else native)


def _of_array(content: bytes, max_pixels: int) -> NDArray[numpy.generic]:
    file = io.BytesIO(content)
    try:
        version = numpy.lib.format.read_magic(file)
        read = numpy.lib.format.read_array_header_1_0 if version == (1, 0) else numpy.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
        _check(shape, max_pixels)
        if kind.hasobject:
            raise BrokenImage("it holds Python objects, which are never unpickled")
        file.seek(0)
        values: NDArray[numpy.generic] = numpy.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BrokenImage(f"this NumPy array cannot be read: {error}") from None
    return (values[..., None] if values.ndim == 2 else values).transpose(2, 0, 1)


def _of_tiff(content: bytes, max_pixels: int) -> NDArray[numpy.generic]:
    if importlib.util.find_spec("tifffile") is None:
        raise BrokenImage("data.mode=bands reads TIFF with the package tifffile. Install it: pip install tifffile")
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series = file.series[0]
            axes, shape = series.axes, series.shape
            others = [place for place, axis in enumerate(axes) if axis not in "YX"]
            if axes.count("Y") != 1 or axes.count("X") != 1 or len(others) > 1:
                raise BrokenImage(f"this TIFF has the axes {axes}; height, width and bands are expected")
            places = [axes.index("Y"), axes.index("X"), *others]
            _check(tuple(shape[place] for place in places), max_pixels)
            values: NDArray[numpy.generic] = series.asarray()
    except BrokenImage:
        raise
    except Exception as error:  # a broken file makes it raise any exception
        raise BrokenImage(f"this TIFF cannot be read: {error}") from None
    values = values.transpose(places)
    return (values[..., None] if values.ndim == 2 else values).transpose(2, 0, 1)


def _check(shape: tuple[int, ...], max_pixels: int) -> None:
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] > _MOST_BANDS):
        raise BrokenImage(f"it has the shape {list(shape)}; height and width, or height, width and bands are expected")
    refuse_too_large(shape[1], shape[0], max_pixels)
