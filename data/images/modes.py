"""Channels of an image: grey, colour, colour with opacity; and conversions."""

from typing import Any, Literal

import torch
from torch import Tensor

from phalanx.data.dataset import Dataset
from phalanx.data.dataset_info import DatasetView

Mode = Literal["grey", "rgb", "rgba"]
CHANNELS: dict[str, int] = {"grey": 1, "rgb": 3, "rgba": 4}
# Luma in thousandths: ITU-R BT.601, section 2.5.1.
_LUMA = (299, 587, 114)


def in_mode(image: Tensor, mode: Mode) -> Tensor:
    """Converts an image's channels. Opacity is dropped, or set to full; grey is BT.601's luma.

    Shape: [1 (grey), 2 (grey and opacity), 3 or 4, H, W] to [1, 3 or 4, H, W], of the same type.

    Raises:
        ValueError: for another number of channels.
    """
    channels = len(image)
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"{channels} channels; an image of one to four can be converted")
    colour, opacity = (image[:1], image[1:]) if channels <= 2 else (image[:3], image[3:])
    if mode == "grey":
        return colour if len(colour) == 1 else _luma(colour)
    colour = colour.expand(3, -1, -1)
    if mode == "rgb":
        return colour.contiguous()
    full = 1.0 if image.is_floating_point() else torch.iinfo(image.dtype).max
    opacity = opacity if len(opacity) else torch.full_like(image[:1], full)
    return torch.cat([colour, opacity])


def _luma(colour: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA).reshape(3, 1, 1)
    if colour.is_floating_point():
        return (colour * weights).sum(0, keepdim=True) / 1000
    return ((colour.to(torch.int32) * weights).sum(0, keepdim=True) // 1000).to(colour.dtype)


def _statistics(values: tuple[float, ...], mode: Mode, opacity: float) -> tuple[float, ...]:
    """Mean or deviation of each channel after a conversion; of grey as if the channels were fully correlated."""
    colour = values[:1] if len(values) <= 2 else values[:3]
    if mode == "grey":
        return colour if len(colour) == 1 else (sum(w * v for w, v in zip(_LUMA, colour, strict=True)) / 1000,)
    colour = colour * 3 if len(colour) == 1 else colour
    return colour if mode == "rgb" else (*colour, values[-1] if len(values) in (2, 4) else opacity)


class InMode(DatasetView):
    """A dataset whose images get other channels, and its statistics with them."""

    def __init__(self, dataset: Dataset, mode: Mode):
        super().__init__(dataset)
        self._mode: Mode = mode
        self.channels = CHANNELS[mode]
        self.mean = _statistics(self.mean, mode, opacity=0.5)
        self.std = _statistics(self.std, mode, opacity=0.25)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        return sample | {"image": in_mode(sample["image"], self._mode)}  # type: ignore[arg-type]
