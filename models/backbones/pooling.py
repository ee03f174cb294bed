"""Average pooling to a fixed size whose gradient is deterministic on GPUs, unlike torch's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AdaptivePool(nn.Module):
    """`torch.nn.AdaptiveAvgPool2d`, to rounding: output i is the mean from floor(i * H / side) up to ceil((i + 1) * H / side).

    Shape: [B, C, H, W] to [B, C, side, side].
    """

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_pool(x, self.side)


def adaptive_pool(x: Tensor, side: int) -> Tensor:
    """Shape: [B, C, H, W] to [B, C, side, side]."""
    height, width = x.shape[-2:]
    if height % side == 0 and width % side == 0:
        return F.avg_pool2d(x, (height // side, width // side))
    return _means(height, side, x) @ x @ _means(width, side, x).T


def _means(length: int, side: int, like: Tensor) -> Tensor:
    """The linear map of one dimension. It is made on the device: a copy from the host would wait for it.

    Shape: [side, length].
    """
    part = torch.arange(side, device=like.device).unsqueeze(1)
    first, last = part * length // side, ((part + 1) * length + side - 1) // side
    place = torch.arange(length, device=like.device)
    return (((place >= first) & (place < last)) / (last - first)).to(like.dtype)
