"""Test-time augmentation: scaled and mirrored views of an image, sliding windows; and the mean of their predictions.

A pixel's probabilities from overlapping windows and views are averaged. Means are computed from logarithms of probabilities,
so that a confident network gives no infinity.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phalanx.configs.sections.evaluate import EvaluateConfig
from phalanx.train.tasks.ensemble import LogitsOf, plain
from phalanx.train.tasks.pixel_criterion import Probabilities


class Views(nn.Module):
    """A network that is evaluated on all views that `evaluate` configures.

    Args:
        model: a segmentation network for images of any size.
        kind: the function from its outputs to probabilities.
        logits: from what the network returns, and the images, to logits.

    Shape: [B, C, H, W] to logits [B, classes, H, W].
    """

    def __init__(self, model: nn.Module, config: EvaluateConfig, kind: Probabilities, logits: LogitsOf = plain):
        super().__init__()
        self.model = model
        self._config, self._kind, self._logits = config, kind, logits

    def forward(self, images: Tensor) -> Tensor:
        if self._config.views == [(1.0, False)]:
            return self._windows(images)
        size, mean = images.shape[-2:], _Mean(self._kind)
        for scale, mirrored in self._config.views:
            sides = [max(1, round(side * scale)) for side in size]
            view = F.interpolate(images, sides, mode="bilinear", antialias=True) if scale != 1 else images
            logits = self._windows(view.flip(-1)).flip(-1) if mirrored else self._windows(view)
            mean.add(at_size(logits, size), size)
        return mean.logits()

    def _windows(self, images: Tensor) -> Tensor:
        """Logits of one view, in full or from all windows."""
        window, stride, size = self._config.window_sides, self._config.stride_sides, images.shape[-2:]
        if window is None or stride is None:
            return precise(self._logits(self.model(images), images))
        mean = _Mean(self._kind)
        (height, width), (down, right) = window, stride
        for top in _starts(size[0], height, down):
            for left in _starts(size[1], width, right):
                part = images[:, :, top : top + height, left : left + width].contiguous()
                mean.add(precise(self._logits(self.model(part), part)), size, top, left)
        return mean.logits()


def _starts(length: int, window: int, stride: int) -> Iterator[int]:
    """Where windows begin along a side: by strides, the last one at the end; a single one if the side is shorter."""
    last = max(0, length - window)
    yield from range(0, last, stride)
    yield last


class _Mean:
    """The mean of probabilities [B, classes, H, W], pixel by pixel."""

    def __init__(self, kind: Probabilities):
        self._kind = kind
        self._sums: list[Tensor] = []  # logarithms of sums of p, and for sigmoids of 1 - p

    def add(self, logits: Tensor, size: torch.Size, top: int = 0, left: int = 0) -> None:
        """Adds logits [B, classes, h, w] of the window at (`top`, `left`) of images of a size."""
        parts = [logits.log_softmax(dim=1)] if self._kind == "softmax" else [F.logsigmoid(logits), F.logsigmoid(-logits)]
        if not self._sums:
            self._sums = [part.new_full((*part.shape[:2], *size), -torch.inf) for part in parts]
        height, width = logits.shape[-2:]
        for total, part in zip(self._sums, parts, strict=True):
            place = total[:, :, top : top + height, left : left + width]
            place.copy_(torch.logaddexp(place, part))

    def logits(self) -> Tensor:
        """Logits whose probabilities are the mean. Their number cancels: in the softmax, or in the log odds."""
        return self._sums[0] if self._kind == "softmax" else self._sums[0] - self._sums[1]


def precise(logits: Tensor) -> Tensor:
    """The tensor in float32 at least: resizing in half precision would move edges."""
    return logits if logits.dtype == torch.float64 else logits.float()


def at_size(logits: Tensor, size: torch.Size) -> Tensor:
    """Resized bilinearly, pixel centres on pixel centres. Shape: [B, classes, h, w] to [B, classes, *size]."""
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)
