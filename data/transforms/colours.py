"""Random changes of an image's colours beside torchvision's `ColorJitter`: in HSV, and in SSD's way.

All take an image [C, H, W] of 1 or 3 channels, uint8, or of floating point between 0 and 1; random numbers come from torch's
global generator. Grey images have neither hue nor saturation.
"""

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F


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
        factors = 1 + (2 * torch.rand(3) - 1) * self._most
        pixels = _as_float(image)
        if len(image) == 1:
            return _as_before((pixels * factors[2]).clamp(0, 1), image)
        hsv = to_hsv(pixels) * factors.to(image.device).view(3, 1, 1)
        return _as_before(from_hsv(torch.cat([hsv[:1] % 1, hsv[1:].clamp(0, 1)])), image)


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
        pixels = _as_float(image)
        if chosen[0]:
            pixels = (pixels + brightness).clamp(0, 1)
        if chosen[1] and not late:
            pixels = (pixels * (1 + contrast)).clamp(0, 1)
        if len(image) == 3 and (chosen[2] or chosen[3]):
            hsv = to_hsv(pixels)
            if chosen[2]:
                hsv[1] = (hsv[1] * (1 + saturation)).clamp(0, 1)
            if chosen[3]:
                hsv[0] = (hsv[0] + hue) % 1
            pixels = from_hsv(hsv)
        if chosen[1] and late:
            pixels = (pixels * (1 + contrast)).clamp(0, 1)
        return _as_before(pixels, image)


def to_hsv(rgb: Tensor) -> Tensor:
    """Hue, saturation and value (Smith, SIGGRAPH 1978), all between 0 and 1; red and grey have hue 0. Shape: [3, H, W]."""
    value, least = rgb.amax(dim=0), rgb.amin(dim=0)
    spread = value - least
    red, green, blue = rgb
    safe = torch.where(spread > 0, spread, 1)
    hue = torch.where(
        value == red,
        (green - blue) / safe % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return torch.stack([hue / 6 % 1, spread / torch.where(value > 0, value, 1), value])


def from_hsv(hsv: Tensor) -> Tensor:
    """The inverse of `to_hsv`. Shape: [3, H, W]."""
    hue, saturation, value = hsv
    place = (hsv.new_tensor([5, 3, 1]).view(3, 1, 1) + hue * 6) % 6
    return value - value * saturation * torch.minimum(place, 4 - place).clamp(0, 1)


def _as_float(image: Tensor) -> Tensor:
    pixels: Tensor = F.to_dtype(image, torch.float32, scale=True)
    return pixels


def _as_before(pixels: Tensor, image: Tensor) -> Tensor:
    if image.is_floating_point():
        return pixels.to(image.dtype)
    return (pixels * 255).round().to(image.dtype)
