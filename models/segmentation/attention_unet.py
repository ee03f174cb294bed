"""Attention U-Net: Oktay et al., Learning Where to Look for the Pancreas, MIDL 2018 (arXiv:1804.03999).

The paper's gates in a U-Net of two dimensions, where the paper has three, with the channels of the 2015 U-Net, 64 to 1024, and
BatchNorm as in the paper's code; so the number of parameters is derived. As in the paper the finest skip connection has no
gate. Without its deep supervision.
"""

import torch
from torch import Tensor, nn

from phalanx.models.backbones.pyramid import pad_to_multiple
from phalanx.models.options import Options
from phalanx.models.segmentation.parts.layers import initialise
from phalanx.models.segmentation.parts.resizing import resize, size_of
from phalanx.models.segmentation.unet import LEVELS, UNet


class AttentionGate(nn.Module):
    """Additive attention (equations 1 and 2, figure 2): skip * sigmoid(psi(relu(theta(skip) + phi(gating)))).

    Args:
        channels: of the skip connection, and of the sum.
        gating: channels of the coarser map that controls the gate.

    Shape: [B, channels, H, W] and [B, gating, ceil(H / 2), ceil(W / 2)] to [B, channels, H, W].
    """

    def __init__(self, channels: int, gating: int):
        super().__init__()
        self.theta = nn.Conv2d(channels, channels, kernel_size=2, stride=2, bias=False)
        self.phi = nn.Conv2d(gating, channels, 1)
        self.psi = nn.Conv2d(channels, 1, 1)
        self.output = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        both = torch.relu(self.theta(pad_to_multiple(skip, 2)) + self.phi(gating))
        attention = resize(torch.sigmoid(self.psi(both)), size_of(skip))  # [B, 1, H, W]
        found: Tensor = self.output(skip * attention)
        return found


class AttentionUNet(UNet):
    """A U-Net whose skip connections go through gates, but for the finest.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """

    def __init__(self, in_channels: int, num_classes: int, width: int, dropout: float, batch_norm: bool):
        super().__init__(in_channels, num_classes, width, dropout, batch_norm)
        channels = [width * 2**level for level in range(LEVELS)]
        self.gates = nn.ModuleList(AttentionGate(channels[level], channels[level + 1]) for level in range(1, LEVELS - 1))
        initialise(self.gates)
        self.block_names = (*self.block_names, *(f"gates.{i}" for i in range(len(self.gates))))

    def gated(self, level: int, skip: Tensor, deeper: Tensor) -> Tensor:
        if level == 0:
            return skip
        found: Tensor = self.gates[level - 1](skip, deeper)
        return found


def build(name: str, options: Options) -> AttentionUNet:
    """Attention U-Net; `dropout` is after the last two levels of the contracting path, 0 where it is not given.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """
    width, batch_norm = options.own("width"), options.own("batch_norm")
    return AttentionUNet(options.in_channels, options.num_classes, width, options.dropout or 0.0, batch_norm)
