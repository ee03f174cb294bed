"""What v8's and X's assignments share. No shape depends on what is predicted: a GPU would be waited for."""

from typing import NamedTuple

import torch
from torch import Tensor


class Assigned(NamedTuple):
    """The cells of each image that learn an object, in rising order, and the object of each.

    Attributes:
        cells: int64 [B, k].
        objects: int64 [B, k].
        there: bool [B, k], False of the last ones of an image in which fewer than k cells learn.
    """

    cells: Tensor
    objects: Tensor
    there: Tensor

    @property
    def images(self) -> Tensor:
        """The image of each, int64 [B, 1]."""
        return torch.arange(len(self.cells), device=self.cells.device)[:, None]


def one_each(taken: Tensor, preference: Tensor) -> Tensor:
    """Gives a cell that several objects take to the one with the largest preference.

    Shape: bool [B, objects, cells], and a number for each, to bool [B, objects, cells].
    """
    preferred = preference.argmax(dim=1, keepdim=True)
    alone = torch.zeros_like(taken).scatter_(1, preferred, True)
    return torch.where(taken.sum(dim=1, keepdim=True) > 1, alone, taken)


def listed(taken: Tensor, most: int) -> Assigned:
    """The cells that are taken.

    Args:
        taken: bool [B, objects, cells], by one object each at most.
        most: largest number of them in an image.
    """
    cells = taken.shape[-1]
    numbers = torch.where(taken.any(dim=1), torch.arange(cells, device=taken.device), cells)
    first = numbers.topk(min(most, cells), dim=1, largest=False).values
    there, first = first < cells, first.clamp(max=cells - 1)
    owners = taken.gather(2, first[:, None].expand(-1, taken.shape[1], -1))  # [B, objects, k]
    return Assigned(first, owners.int().argmax(dim=1), there)
