"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, shipped with the package.

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (its test set).
"""

import torch
from torch import Tensor

from phalanx.data.dataset import Split


class Digits:
    """Every fifth image is held out for validation: 1,437 to train on, 360 to validate."""

    classes = tuple("0123456789")
    channels = 1
    mean = (0.305,)
    std = (0.376,)

    def __init__(self, root: str | None, split: Split):
        from sklearn.datasets import load_digits

        pixels, targets = load_digits(return_X_y=True)
        held_out = torch.arange(len(targets)) % 5 == 0
        chosen = held_out if split == "val" else ~held_out
        self._images = (torch.from_numpy(pixels).float() / 16).reshape(-1, 1, 8, 8)[chosen]
        self._targets = torch.from_numpy(targets)[chosen].tolist()

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        return {"image": self._images[index], "target": self._targets[index]}
