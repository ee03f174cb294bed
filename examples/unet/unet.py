"""A U-Net in a file of its own (Ronneberger et al., MICCAI 2015, arXiv:1505.04597), three levels deep, with BatchNorm."""

import torch
from torch import nn


def _twice(inputs, outputs):
    return nn.Sequential(
        *(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
        *(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
    )


class UNet(nn.Module):
    def __init__(self, num_classes, in_channels, width=16):
        super().__init__()
        w = width
        self.down = nn.ModuleList([_twice(in_channels, w), _twice(w, 2 * w), _twice(2 * w, 4 * w)])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList([nn.ConvTranspose2d(4 * w, 2 * w, 2, 2), nn.ConvTranspose2d(2 * w, w, 2, 2)])
        self.merge = nn.ModuleList([_twice(4 * w, 2 * w), _twice(2 * w, w)])
        self.head = nn.Conv2d(w, num_classes, 1)

    def forward(self, images):  # [B, C, H, W], sides in multiples of 4
        first = self.down[0](images)
        second = self.down[1](self.pool(first))
        x = self.down[2](self.pool(second))
        for up, merge, beside in zip(self.up, self.merge, (second, first), strict=True):
            x = merge(torch.cat([up(x), beside], dim=1))
        return self.head(x)
