"""BatchNorm's last step, which the synchronised kinds share."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Added to a variance of 1 it changes no bit; torch 2.11 refuses 0.
_NO_EPS = 1e-30


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`x * scale + shift`, both [C], in one pass and in x's own type: BatchNorm of mean 0 and variance 1."""
    if not x.numel():
        return torch.zeros_like(x)
    return F.batch_norm(x, torch.zeros_like(scale), torch.ones_like(scale), scale, shift, training=False, eps=_NO_EPS)
