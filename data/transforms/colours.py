"""Random changes of an image's colours beside torchvision's `ColorJitter`: in HSV, and in SSD's way.

All take an image [C, H, W] of 1 or 3 channels, uint8, or of floating point between 0 and 1; random numbers come from torch's
global generator. Grey images have neither hue nor saturation. As in the code that published these, an image of 8 bits has them
after each step too, and what is not a whole number is cut off.
"""

import math

import torch
from torch import Tensor

from phalanx.data.transforms.hsv import HUES, from_hsv, to_hsv


class MultipliedHsv:
    """Hue, saturation and value times a factor each, in random places of 1 plus or minus what is given, as in YOLOv5 and YOLOX.

    Args:
        brightness, saturation, hue: largest distance of the factor of value, saturation and hue from 1.
        contrast: must be 0, since HSV has none.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float):
        assert not contrast
        self._most = torch.tensor([hue, saturation, brightness])

    def __call__(self, image: Tensor) -> Tensor:
        """Shape: unchanged."""
        hue, saturation, value = (1 + (2 * torch.rand(3) - 1) * self._most).tolist()
        if len(image) == 1:
            return _changed(image, value)
        hsv = to_hsv(image)
        turned = hsv[0].float() * hue % (HUES if image.dtype == torch.uint8 else 1)
        return from_hsv(torch.stack([turned.to(hsv.dtype), _changed(hsv[1], saturation), _changed(hsv[2], value)]))


class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each with a probability of one half (Liu et al., SSD, arXiv:1512.02325).

    As in mmsegmentation: brightness is added, contrast multiplies all values, before or after the others with equal
    probability, saturation is multiplied and hue is added in HSV.

    Args:
        brightness: largest summand, as a share of the full range.
        contrast, saturation: largest distance of a factor from 1.
        hue: largest summand, as a share of the circle.
    """

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float):
        self._most = torch.tensor([brightness, contrast, saturation, hue])

    def __call__(self, image: Tensor) -> Tensor:
        """Shape: unchanged."""
        chosen = (torch.rand(4) < 0.5).tolist()
        brightness, contrast, saturation, hue = ((2 * torch.rand(4) - 1) * self._most).tolist()
        late = bool(torch.rand(()) < 0.5)
        if chosen[0]:
            image = _changed(image, summand=brightness)
        if chosen[1] and not late:
            image = _changed(image, 1 + contrast)
        if len(image) == 3 and chosen[2]:
            hsv = to_hsv(image)
            image = from_hsv(torch.stack([hsv[0], _changed(hsv[1], 1 + saturation), hsv[2]]))
        if len(image) == 3 and chosen[3]:
            hsv = to_hsv(image)
            image = from_hsv(torch.stack([_turned(hsv[0], hue), hsv[1], hsv[2]]))
        if chosen[1] and late:
            image = _changed(image, 1 + contrast)
        return image


def _changed(levels: Tensor, factor: float = 1.0, summand: float = 0.0) -> Tensor:
    """Levels times a factor, plus a share of the full range, within the range."""
    if levels.dtype == torch.uint8:
        return (levels.float() * factor + 255 * summand).clamp_(0, 255).to(torch.uint8)
    return (levels * factor + summand).clamp_(0, 1)


def _turned(hue: Tensor, by: float) -> Tensor:
    """Hues moved on by a share of the circle; in 8 bits by a whole number of steps."""
    if hue.dtype == torch.uint8:
        return ((hue.int() + math.floor(by * HUES)) % HUES).to(torch.uint8)
    return (hue + by) % 1
