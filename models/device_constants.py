"""Constants, such as the weights of classes, on the device that computes with them.

They are copied there once: every copy from the host would wait for the device.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_copies: Any = WeakIdKeyDictionary()


def constant(numbers: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor that never changes, on a device and in a format."""
    if numbers.device == device and numbers.dtype == dtype:
        return numbers
    copies: dict[tuple[torch.device, torch.dtype], Tensor] = _copies.setdefault(numbers, {})
    if (device, dtype) not in copies:
        with torch.inference_mode(False):  # an evaluation may come first, and a backward could not use its tensors
            copies[device, dtype] = numbers.to(device, dtype)
    return copies[device, dtype]
