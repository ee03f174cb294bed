"""Residual networks: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv:1512.03385)."""

from typing import Literal

import torchvision
from torch import nn


def resnet18(
    num_classes: int = 1000, in_channels: int = 3, stem: Literal["standard", "small"] = "standard", dropout: float = 0.0
) -> nn.Module:
    """ResNet-18 (table 1), torchvision's, with its names of parameters.

    11,689,512 parameters for 1000 classes and 3 channels (torchvision's, as published with its weights).

    Args:
        stem: `standard` is the paper's 7x7 convolution and pooling, stride 4 in all; `small` a 3x3 convolution with stride
            1 and no pooling, as section 4.2 has it for CIFAR's 32-pixel images.
        dropout: before the last linear layer.

    Shape: [B, in_channels, H, W] to [B, num_classes].
    """
    network = torchvision.models.resnet18(weights=None, num_classes=num_classes)
    width = network.conv1.out_channels
    if stem == "small":
        network.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
    if network.conv1.in_channels != 3 or stem == "small":
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.block_names = tuple(f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2))
    if dropout:
        network.avgpool = nn.Sequential(network.avgpool, nn.Dropout(dropout))
    return network
