"""Half precision is too coarse for boxes: from 512 pixels on bf16 has steps of four, and from 2048 on fp16 of two."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """A tensor in half precision as float32; any other as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
