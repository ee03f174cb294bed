"""U-Net's decoder on the maps of a backbone."""

import torch
from torch import Tensor, nn

from phalanx.models.options import Options
from phalanx.models.segmentation.parts.encoder import blocks_of, encoder
from phalanx.models.segmentation.parts.layers import convolution
from phalanx.models.segmentation.parts.resizing import resize, size_of

# Channels of the decoder by stride; deeper maps than 16 have these too.
_CHANNELS = {1: 16, 2: 32, 4: 64, 8: 128, 16: 256}


class BackboneUNet(nn.Module):
    """From the deepest map to the image's size, twice as fine at each step: bilinear, beside the backbone's map of that stride
    where it has one, through two 3x3 convolutions with BatchNorm and ReLU.

    Ronneberger et al. (arXiv:1505.04597) with another encoder; the number of parameters is derived.

    Shape: [B, in_channels, H, W] to [B, num_classes, H, W].
    """

    def __init__(self, options: Options):
        super().__init__()
        self.backbone = encoder(options)
        maps = dict(zip(self.backbone.strides, range(len(self.backbone.strides)), strict=True))  # the deepest of each stride
        self.steps: list[tuple[int, int | None]] = []  # stride, and place of the map beside
        self.decoder = nn.ModuleList()
        stride, channels = self.backbone.strides[-1], self.backbone.channels[-1]
        while stride > 1:
            stride = max(1, stride // 2)
            place, outputs = maps.get(stride), _CHANNELS.get(stride, max(_CHANNELS.values()))
            beside = 0 if place is None else self.backbone.channels[place]
            self.steps.append((stride, place))
            self.decoder.append(nn.Sequential(convolution(channels + beside, outputs), convolution(outputs, outputs)))
            channels = outputs
        self.dropout = nn.Dropout(options.dropout or 0.0)
        self.head = nn.Conv2d(channels, options.num_classes, 3, padding=1)
        self.block_names = (*blocks_of(self.backbone), *(f"decoder.{i}" for i in range(len(self.decoder))))

    def forward(self, image: Tensor) -> Tensor:
        height, width = size_of(image)
        maps = self.backbone(image)
        x = maps[-1]
        for (stride, place), convolutions in zip(self.steps, self.decoder, strict=True):
            x = resize(x, (-(-height // stride), -(-width // stride)))
            x = convolutions(x if place is None else torch.cat([x, maps[place]], dim=1))
        logits: Tensor = self.head(self.dropout(x))
        return logits
