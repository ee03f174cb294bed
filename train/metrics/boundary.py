"""Boundary F-score: how well the outlines of classes are predicted, which area metrics hardly show.

Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013: of each class in an image, precision and
recall of its boundary pixels, where a pixel counts as found if the other boundary is nearer than 0.75 % of the image's
diagonal.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from phalanx.train.metrics.pixel_confusion import count_pixels

TOLERANCE = 0.0075  # of the diagonal
_NOTHING = -1


def boundary(mask: Tensor) -> Tensor:
    """The pixels of each class that have a neighbour (above, below, left or right) of another class.

    Args:
        mask: integers [H, W]; a negative pixel has no class and no boundary.

    Shape: [H, W], the class of boundary pixels, -1 elsewhere.
    """
    padded = F.pad(mask, (1, 1, 1, 1), value=_NOTHING)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    differs = torch.zeros_like(mask, dtype=torch.bool)
    for neighbour in neighbours:
        differs |= (neighbour != mask) & (neighbour >= 0)
    return torch.where(differs & (mask >= 0), mask, _NOTHING)


def boundary_f(target: Tensor, predicted: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The score of each class in one image, and whether it is defined: the target or the prediction has such a boundary.

    Args:
        target: integers [H, W]; negative pixels are ignored.
        predicted: likewise.

    Shape: float64 [classes], between 0 and 1 (0 if undefined), and bool [classes].
    """
    truth, found = boundary(target), boundary(predicted.masked_fill(target < 0, _NOTHING))
    recall, precision = _near(truth, found, TOLERANCE * math.hypot(*target.shape))
    predictions, truths = (count_pixels(one, one >= 0, classes) for one in (found, truth))
    precise, recalled = count_pixels(found, precision, classes), count_pixels(truth, recall, classes)
    # 2PR / (P + R), where P = precise / predictions and R = recalled / truths, without a division by zero.
    above = 2 * precise.double() * recalled.double()
    below = precise.double() * truths.double() + recalled.double() * predictions.double()
    return torch.where(below > 0, above / below.clamp(min=1), 0.0), (predictions + truths) > 0


def _near(one: Tensor, other: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Whether each boundary pixel is nearer to the other boundary of its class than the tolerance, for both boundaries.

    All pixels are compared: a GPU would have to tell the host how many are on a boundary.

    Shape: integers [H, W], both, to bool [H, W], both.
    """
    reach = math.ceil(tolerance)
    height, width = one.shape
    near_one, near_other = torch.zeros_like(one, dtype=torch.bool), torch.zeros_like(one, dtype=torch.bool)
    one, other = one.to(torch.int16), other.to(torch.int16)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if math.hypot(down, right) < tolerance and abs(down) < height and abs(right) < width:
                here = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
                there = slice(max(0, down), height - max(0, -down)), slice(max(0, right), width - max(0, -right))
                same = one[here] == other[there]
                near_one[here] |= same
                near_other[there] |= same
    return near_one & (one >= 0), near_other & (other >= 0)
