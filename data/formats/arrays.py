"""Datasets that fit into memory: all images in one array."""

from typing import Any

import torch
from torch import Tensor

from phalanx.configs.errors import UserError


class ArrayImages:
    """Images in memory with a class each.

    Args:
        images: [samples, C, H, W], as a dataset returns them.
        labels: int64 [samples].
        file: the labels' file.

    Raises:
        UserError: if a label is out of range.
    """

    kind = "classification"

    def __init__(self, images: Tensor, labels: Tensor, classes: tuple[str, ...], file: str):
        self.labels, self.classes, self.channels = labels, classes, images.shape[1]
        self._images = images
        wrong = torch.nonzero((labels < 0) | (labels >= len(classes))).flatten().tolist()
        if wrong:
            raise UserError(
                f"{file}: the label of sample {wrong[0]} is {int(labels[wrong[0]])}, but there are {len(classes)} classes "
                f"(0 to {len(classes) - 1}). {len(wrong)} of {len(labels)} labels are out of range. Download the file again."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self._images[index], "target": int(self.labels[index])}
