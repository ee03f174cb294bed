"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, shipped with the package.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (its test set).
"""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data.formats.arrays import ArrayImages


class Digits(ArrayImages):
    """Every fifth image is held out for validation: 1,437 to train on, 360 to validate."""

    mean = (0.305,)
    std = (0.376,)

    def __init__(self, config: DataConfig, split: str):
        if split not in ("train", "val"):
            raise UserError(f"digits has no split {split!r}, but train and val. Set data.train_split, data.val_split.")
        table = _table()  # [1797, 65]: 64 pixels of 0 to 16, and the digit
        held_out = torch.arange(len(table)) % 5 == 0
        chosen = held_out if split == "val" else ~held_out
        images = (table[:, :-1].float() / 16).reshape(-1, 1, 8, 8)[chosen]
        super().__init__(images, table[:, -1].long()[chosen], tuple("0123456789"), "digits")


def _table() -> Tensor:
    """The package's own file, read without importing scikit-learn, which takes over a second."""
    package = importlib.util.find_spec("sklearn")
    for folder in (package.submodule_search_locations or []) if package else []:
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            with gzip.open(file, "rt") as lines:
                return torch.from_numpy(np.loadtxt(lines, delimiter=","))
    from sklearn.datasets import load_digits  # a version that keeps the file elsewhere

    pixels, targets = load_digits(return_X_y=True)
    return torch.from_numpy(np.column_stack([pixels, targets]))
