"""Features at a smaller stride than the network's own: strides become dilations (Yu and Koltun, arXiv:1511.07122).

A layer with stride 2 gets stride 1, and every layer after it reads its neighbours twice as far apart. At every second position
the dilated network then gives what the network itself would, with the same weights.
"""

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn


def dilate(modules: Iterable[nn.Module], before: int, after: int) -> None:
    """Removes strides from convolutions, in the order in which they run.

    Args:
        modules: those of a stage whose first convolutions have the stride.
        before: dilation of what is before the stride: of the convolutions that have it.
        after: dilation of all others.
    """
    for layer in modules:
        if not isinstance(layer, nn.Conv2d):
            continue
        dilation = before if layer.stride != (1, 1) else after
        layer.stride = (1, 1)
        if layer.kernel_size == (1, 1):
            continue  # it has no neighbours; a dilation would only keep it from the faster kernels
        layer.dilation = (dilation, dilation)
        layer.padding = tuple(dilation * (side // 2) for side in layer.kernel_size)


class DilatedPool(nn.Module):
    """Max pooling of 2 by 2 with stride 1, whose windows begin at each position, as those of stride 2 do.

    Shape: [B, C, H, W] to the same.
    """

    def __init__(self, dilation: int):
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, self.dilation, 0, self.dilation), value=float("-inf"))
        return F.max_pool2d(x, kernel_size=2, stride=1, dilation=self.dilation)
