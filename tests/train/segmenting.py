"""Networks and data for tests of segmentation: small enough to be computed by hand."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.train.tasks import DataInfo
from phalanx.train.tasks.segmentation import Segmentation
from tests.support.running import DIGITS

CLASSES = 5


class Given(nn.Module):
    """A network that is sure of what its image says: the image is the logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images


class TwoHeads(nn.Module):
    """Logits of each pixel from its neighbourhood, and those of an auxiliary head on the first layer."""

    auxiliary_weight = 0.4

    def __init__(self, channels: int = 1, classes: int = CLASSES) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, padding=1)
        self.out, self.aux = nn.Conv2d(6, classes, 1), nn.Conv2d(6, classes, 1)

    def forward(self, images: Tensor) -> Any:
        hidden = self.first(images).tanh()
        if not self.training:
            return self.out(hidden)
        return {"out": self.out(hidden), "aux1": self.aux(hidden)}


def configured(*settings: str) -> RunConfig:
    """A run that learns segmentation; of the rest of its recipe nothing is used."""
    return load([DIGITS], ["task.name=segmentation", "data.augment.shift=0", *settings])


def task_of(*settings: str, counts: Sequence[int] | None = None) -> Segmentation:
    facts = DataInfo(tuple("abcde"), 1, "segmentation", 10, None if counts is None else tuple(counts))
    return Segmentation(configured(*settings), facts)


def drawn(seed: int = 0, samples: int = 3, height: int = 7, width: int = 9) -> tuple[Tensor, Tensor]:
    """Logits [B, classes, H, W] in float64 and masks [B, H, W], a fifth of whose pixels is ignored (255)."""
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, CLASSES, height, width, generator=g, dtype=torch.float64)
    mask = torch.randint(CLASSES, (samples, height, width), generator=g)
    return logits, mask.masked_fill(torch.rand(mask.shape, generator=g) < 0.2, 255)
