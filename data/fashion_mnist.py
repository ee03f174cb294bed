"""Fashion-MNIST: 70,000 grey images of 28 x 28 pixels, read from local files such as Debian's `dataset-fashion-mnist`.

Xiao, Rasul and Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms, 2017
(arXiv:1708.07747). The files are in the IDX format of MNIST: a magic number, the sides, the bytes.
"""

import gzip
import zlib
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.data.dataset import Split

_PREFIX = {"train": "train", "val": "t10k"}
_UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> NDArray[numpy.uint8]:
    """An IDX file of bytes, gzipped or not.

    Raises:
        UserError: naming the file that is missing or broken.
    """
    gzipped = path.with_name(path.name + ".gz")
    if not path.is_file() and not gzipped.is_file():
        raise UserError(f"{path}[.gz]: there is no such file. Set data.root to the folder that holds it.")
    try:
        raw = path.read_bytes() if path.is_file() else gzip.decompress(gzipped.read_bytes())
        magic = numpy.frombuffer(raw, ">u1", count=4)
        sides = numpy.frombuffer(raw, ">u4", count=dimensions, offset=4).tolist()
        if tuple(magic) != (0, 0, _UNSIGNED_BYTE, dimensions):
            raise ValueError
        return numpy.frombuffer(raw, numpy.uint8, offset=4 + 4 * dimensions).reshape(sides)
    except (OSError, EOFError, ValueError, zlib.error):
        raise UserError(f"{path}[.gz]: this is no whole IDX file with {dimensions} dimensions. Fetch it again.") from None


class FashionMNIST:
    """60,000 images to train on; the published test set of 10,000 is the validation split."""

    classes = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    channels = 1
    mean = (0.286,)
    std = (0.353,)

    def __init__(self, root: str | None, split: Split):
        folder = Path(root or "")
        self._images = torch.from_numpy(read_idx(folder / f"{_PREFIX[split]}-images-idx3-ubyte", 3).copy())
        self._targets = read_idx(folder / f"{_PREFIX[split]}-labels-idx1-ubyte", 1).tolist()
        if len(self._images) != len(self._targets):
            counts = f"{len(self._images)} images but {len(self._targets)} labels for {split}"
            raise UserError(f"{folder}: {counts}. Fetch the files again.")

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return {"image": self._images[index].unsqueeze(0).float() / 255, "target": self._targets[index]}
