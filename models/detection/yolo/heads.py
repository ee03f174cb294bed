"""The YOLO networks' prediction heads."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phalanx.models.detection.yolo.layers import Conv, ConvOf

BINS = 16  # of the distribution of a distance (Li et al., arXiv:2006.04388)
_PRIOR = 0.01  # that there is an object, at the start (Lin et al., arXiv:1708.02002, section 4.1)


class AnchorHead(nn.Module):
    """v3 and v5: of each of three anchors, four numbers for the box, one for an object, and one a class.

    Shape: maps [B, channels[i], h, w] to [B, anchors, h, w, 5 + classes] each.
    """

    def __init__(self, channels: Sequence[int], classes: int, anchors: int = 3):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(each, anchors * (5 + classes), 1) for each in channels)
        self.anchors = anchors

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for conv, x in zip(self.convs, maps, strict=True):
            batch, _, height, width = x.shape
            found.append(conv(x).view(batch, self.anchors, -1, height, width).permute(0, 1, 3, 4, 2))
        return found


class DecoupledHead(nn.Module):
    """X: classes in one branch, box and object in another (Ge et al., arXiv:2107.08430, section 2.1).

    Shape: maps [B, channels[i], h, w] to [B, h, w, 5 + classes] each: box, object, classes.
    """

    def __init__(self, channels: Sequence[int], classes: int, hidden: int, conv: ConvOf = Conv):
        super().__init__()
        self.stems = nn.ModuleList(Conv(each, hidden) for each in channels)
        self.class_convs = nn.ModuleList(_twice(conv, hidden) for _ in channels)
        self.box_convs = nn.ModuleList(_twice(conv, hidden) for _ in channels)
        self.classes = nn.ModuleList(nn.Conv2d(hidden, classes, 1) for _ in channels)
        self.boxes = nn.ModuleList(nn.Conv2d(hidden, 4, 1) for _ in channels)
        self.objects = nn.ModuleList(nn.Conv2d(hidden, 1, 1) for _ in channels)
        for last in (*self.classes, *self.objects):
            nn.init.constant_(last.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for place, x in enumerate(maps):
            x = self.stems[place](x)
            of_classes, of_boxes = self.class_convs[place](x), self.box_convs[place](x)
            outputs = [self.boxes[place](of_boxes), self.objects[place](of_boxes), self.classes[place](of_classes)]
            found.append(torch.cat(outputs, dim=1).permute(0, 2, 3, 1))
        return found


def _twice(conv: ConvOf, channels: int) -> nn.Sequential:
    return nn.Sequential(conv(channels, channels, 3, 1), conv(channels, channels, 3, 1))


class DistributionHead(nn.Module):
    """v8: for each side of the box a distribution of its distance, and the classes; no objectness.

    Shape: maps [B, channels[i], h, w] to [B, h, w, 4 * BINS + classes] each.
    """

    def __init__(self, channels: Sequence[int], classes: int, image_side: int = 640, strides: Sequence[int] = (8, 16, 32)):
        super().__init__()
        of_box = max(16, channels[0] // 4, 4 * BINS)
        of_class = max(channels[0], min(classes, 100))
        self.boxes = nn.ModuleList(_branch(each, of_box, 4 * BINS) for each in channels)
        self.classes = nn.ModuleList(_branch(each, of_class, classes) for each in channels)
        # What the bins stand for, in strides; not trained, a parameter because the published counts have it.
        self.projection = nn.Parameter(torch.arange(BINS, dtype=torch.float32), requires_grad=False)
        for box, of, stride in zip(self.boxes, self.classes, strides, strict=True):
            nn.init.constant_(box[-1].bias, 1.0)  # type: ignore[index]
            # About five objects an image, spread over all places and classes.
            nn.init.constant_(of[-1].bias, math.log(5 / classes / (image_side / stride) ** 2))  # type: ignore[index]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        branches = zip(self.boxes, self.classes, maps, strict=True)
        return [torch.cat([box(x), of(x)], dim=1).permute(0, 2, 3, 1) for box, of, x in branches]


def _branch(channels: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(Conv(channels, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, out, 1))
