"""Red, green and blue to hue, saturation and value, and back (Smith, Color gamut transform pairs, SIGGRAPH 1978).

Floating point images have all of them between 0 and 1; images of 8 bits have them as OpenCV does: hue in 180 steps of two
degrees, saturation and value from 0 to 255. Grey and red have hue 0.
"""

import torch
from torch import Tensor

HUES = 180  # of 8 bits
_BITS = 12  # OpenCV computes its quotients in fixed point


def to_hsv(rgb: Tensor) -> Tensor:
    """Shape: [3, H, W] to the same; uint8 to uint8, floating point to floating point."""
    if rgb.dtype == torch.uint8:
        return _to_8_bits(rgb)
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
    """The inverse of `to_hsv`; exact to rounding in floating point. Shape: [3, H, W] to the same; uint8 to uint8."""
    if hsv.dtype == torch.uint8:
        # Cut off and not rounded, as OpenCV's vectorised code does.
        shares = hsv.float().mul_(torch.tensor([6 / HUES, 1 / 255, 1 / 255], device=hsv.device).view(3, 1, 1))
        return _to_rgb(*shares).mul_(255).to(torch.uint8)
    hue, saturation, value = hsv
    return _to_rgb(hue * 6, saturation, value)


def _to_rgb(sixths: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Of hues between 0 and 6."""
    place = (sixths.new_tensor([5, 3, 1]).view(3, 1, 1) + sixths) % 6
    return value * (1 - saturation * torch.minimum(place, 4 - place).clamp_(0, 1))


def _to_8_bits(rgb: Tensor) -> Tensor:
    value, least = rgb.amax(dim=0), rgb.amin(dim=0)
    spread, (red, green, blue) = (value - least).int(), rgb.int()
    sixths = torch.where(
        value == rgb[0],
        green - blue,
        torch.where(value == rgb[1], blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = _times(sixths, HUES / 6, spread)
    return torch.stack(
        [torch.where(hue < 0, hue + HUES, hue).to(torch.uint8), _times(spread, 255, value).to(torch.uint8), value]
    )


def _times(numbers: Tensor, factor: float, divisor: Tensor) -> Tensor:
    """Whole numbers times a factor, divided by whole numbers (0 as 1), rounded in fixed point."""
    quotients = ((factor * 2**_BITS) / divisor.clamp(min=1).double()).round_().int()
    return (numbers * quotients + 2 ** (_BITS - 1)) >> _BITS
