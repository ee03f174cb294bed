"""UNet++: Zhou et al., A Nested U-Net Architecture for Medical Image Segmentation, DLMIA 2018 (arXiv:1807.10165).

As in the paper: 32 to 512 channels, nodes of two 3x3 convolutions, up-convolutions of 2x2; 9.04M parameters, as the paper says.
With deep supervision each of the four nodes of full size has its own head and loss, and evaluation takes the mean of
their logits (the paper's accurate mode takes that of their outputs).
"""

import torch
from torch import Tensor, nn

from phalanx.models.options import Options
from phalanx.models.segmentation.parts.layers import initialise
from phalanx.models.segmentation.parts.resizing import crop, size_of
from phalanx.models.segmentation.unet import LEVELS, halved, two_convolutions


class UNetPlusPlus(nn.Module):
    """Figure 1 of the paper. Node (i, j) is at level i, 0 the finest, and the j-th of its level; j = 0 is the encoder.

    Args:
        width: channels of the first level; each level below has twice as many.
        deep_supervision: heads on the nodes (0, 1) to (0, 4); otherwise on (0, 4) alone.

    Attributes:
        auxiliary_weight: of the loss of each further head: the same as of the last.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; while training with deep supervision a dictionary of four such,
    `out` of the node (0, 4), `aux1` to `aux3` of (0, 1) to (0, 3).
    """

    auxiliary_weight = 1.0

    def __init__(
        self, in_channels: int, num_classes: int, width: int, dropout: float, batch_norm: bool, deep_supervision: bool
    ):
        super().__init__()
        channels = [width * 2**level for level in range(LEVELS)]
        self.deep_supervision = deep_supervision
        self.nodes, self.up = nn.ModuleDict(), nn.ModuleDict()
        for i, j in _places():
            own = channels[i]
            if j == 0:
                self.nodes[_name(i, j)] = two_convolutions(channels[i - 1] if i else in_channels, own, batch_norm)
                continue
            self.up[_name(i, j)] = nn.ConvTranspose2d(channels[i + 1], own, kernel_size=2, stride=2)
            self.nodes[_name(i, j)] = two_convolutions((j + 1) * own, own, batch_norm)
        heads = range(1, LEVELS) if deep_supervision else (LEVELS - 1,)
        self.heads = nn.ModuleDict({_name(0, j): nn.Conv2d(width, num_classes, 1) for j in heads})
        self.dropout = nn.Dropout(dropout)
        initialise(self)
        self.block_names = (*(f"nodes.{name}" for name in self.nodes), *(f"up.{name}" for name in self.up))
        self.input_weight = f"nodes.{_name(0, 0)}.0.weight"

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        found: dict[tuple[int, int], Tensor] = {}
        for i, j in _places():
            if j == 0:
                x = halved(found[i - 1, 0]) if i else image
            else:
                before = [found[i, k] for k in range(j)]
                x = torch.cat([*before, crop(self.up[_name(i, j)](found[i + 1, j - 1]), size_of(before[0]))], dim=1)
            found[i, j] = self.dropout(self.nodes[_name(i, j)](x))
        logits = [head(found[0, j]) for j in range(1, LEVELS) for name, head in self.heads.items() if name == _name(0, j)]
        if not self.deep_supervision:
            return logits[-1]
        if not self.training:
            return torch.stack(logits).mean(dim=0)
        return {"out": logits[-1]} | {f"aux{j}": each for j, each in enumerate(logits[:-1], 1)}


def _places() -> list[tuple[int, int]]:
    """All nodes, each after those that it needs: the encoder first."""
    return [(i, j) for j in range(LEVELS) for i in range(LEVELS - j)]


def _name(i: int, j: int) -> str:
    return f"{i}_{j}"


def build(name: str, options: Options) -> UNetPlusPlus:
    """UNet++; `dropout` is after every node, 0 where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W]; with deep supervision, while training, `out` and `aux1` to `aux3`.
    """
    own = (options.own("width"), options.dropout or 0.0, options.own("batch_norm"), options.own("deep_supervision"))
    return UNetPlusPlus(options.in_channels, options.num_classes, *own)
