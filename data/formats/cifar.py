"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32 x 32 pixels each, from the files of the *binary version*.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. A record is one byte of label (CIFAR-100: two, coarse
and fine), then 1,024 bytes each of red, green and blue. The version for Python is pickled, and nothing is unpickled here.
"""

from pathlib import Path

import numpy
import torch

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.text_file import read_text
from phalanx.data.formats.arrays import ArrayImages

_SIDE = 32
_IMAGE_BYTES = 3 * _SIDE * _SIDE


class _CIFAR(ArrayImages):
    """One of the two, in `ROOT` or in its archive's folder below."""

    files: dict[str, tuple[str, ...]]
    folder: str
    label_bytes: int
    names_file: str

    def __init__(self, config: DataConfig, split: str):
        if split not in self.files:
            raise UserError(
                f"{config.name} has no split {split!r}, but {', '.join(self.files)}. Set data.train_split, data.val_split."
            )
        root = Path(config.root or "")
        root = root / self.folder if (root / self.folder).is_dir() else root
        records = numpy.concatenate([self._records(root / name) for name in self.files[split]])
        labels = torch.from_numpy(records[:, self.label_bytes - 1].astype(numpy.int64))
        images = torch.from_numpy(records[:, self.label_bytes :].copy()).reshape(-1, 3, _SIDE, _SIDE)
        super().__init__(images, labels, self._classes(root), str(root / self.files[split][0]))

    def _records(self, path: Path) -> numpy.ndarray:
        """[records, label bytes and image bytes]."""
        size = self.label_bytes + _IMAGE_BYTES
        if not path.is_file():
            pickled = path.with_suffix("").is_file()
            why = ", only the pickled version for Python, which is never opened" if pickled else ""
            raise UserError(f"{path}: there is no such file{why}. Get the binary version ({self.folder}), and set data.root.")
        content = numpy.fromfile(path, numpy.uint8)
        if len(content) == 0 or len(content) % size:
            raise UserError(f"{path}: {len(content)} bytes are not a multiple of {size}. Download it again.")
        return content.reshape(-1, size)

    def _classes(self, root: Path) -> tuple[str, ...]:
        path = root / self.names_file
        if not path.is_file():
            raise UserError(f"{path}: there is no such file, which names the classes. Download the complete archive.")
        return tuple(read_text(path).split())


class CIFAR10(_CIFAR):
    """50,000 images to train on; the published test set of 10,000 is the validation split."""

    files = {  # noqa: RUF012
        "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "val": ("test_batch.bin",),
        "test": ("test_batch.bin",),
    }
    folder, label_bytes, names_file = "cifar-10-batches-bin", 1, "batches.meta.txt"
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


class CIFAR100(_CIFAR):
    """50,000 images of 100 (fine) classes to train on; the published test set of 10,000 is the validation split."""

    files = {"train": ("train.bin",), "val": ("test.bin",), "test": ("test.bin",)}  # noqa: RUF012
    folder, label_bytes, names_file = "cifar-100-binary", 2, "fine_label_names.txt"
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
