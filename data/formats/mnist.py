"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels each, from local files such as Debian's
`dataset-fashion-mnist`.

LeCun, Bottou, Bengio and Haffner, Gradient-Based Learning Applied to Document Recognition, Proceedings of the IEEE, 1998.
Xiao, Rasul and Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms, 2017
(arXiv:1708.07747).
"""

from pathlib import Path

import torch

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.files.idx import read_idx
from phalanx.data.formats.arrays import ArrayImages

_PREFIX = {"train": "train", "val": "t10k", "test": "t10k"}


class MNIST(ArrayImages):
    """60,000 images to train on; the published test set of 10,000 is the validation split."""

    inside: tuple[str, ...] = ("MNIST/raw", "raw")  # torchvision's location
    names: tuple[str, ...] = tuple("0123456789")
    mean: tuple[float, ...] = (0.1307,)
    std: tuple[float, ...] = (0.3081,)

    def __init__(self, config: DataConfig, split: str):
        if split not in _PREFIX:
            raise UserError(
                f"{config.name} has no split {split!r}, but {', '.join(_PREFIX)}. Set data.train_split, data.val_split."
            )
        root = Path(config.root or "")
        folder = next((root / inside for inside in self.inside if (root / inside).is_dir()), root)
        images = torch.from_numpy(read_idx(folder / f"{_PREFIX[split]}-images-idx3-ubyte", 3).copy())
        file = folder / f"{_PREFIX[split]}-labels-idx1-ubyte"
        labels = torch.from_numpy(read_idx(file, 1).copy()).long()
        if len(images) != len(labels):
            raise UserError(f"{folder}: {len(images)} images but {len(labels)} labels for {split}. Download the files again.")
        super().__init__(images.unsqueeze(1), labels, self.names, f"{file}[.gz]")


class FashionMNIST(MNIST):
    """60,000 images of clothes to train on; the published test set of 10,000 is the validation split."""

    inside = ("FashionMNIST/raw", "raw")
    names = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    mean = (0.286,)
    std = (0.353,)
