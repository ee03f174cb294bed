"""Masks of boxes brought into the image."""

import torch
import torch.nn.functional as F
from torch import Tensor

_THRESHOLD = 0.5


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixels of the image each mask covers: those whose centre has a probability of at least 0.5.

    He et al., Mask R-CNN (arXiv:1703.06870), section 3.1. A mask is interpolated linearly; outside of its box there is nothing.

    Args:
        masks: probabilities [k, h, w] within the boxes.
        boxes: left, top, right, bottom in pixels of the image, [k, 4].
        size: height and width of the image.

    Shape: bool [k, *size].
    """
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool, device=masks.device)
    for mask, box, place in zip(masks, boxes, pasted, strict=True):
        left, top, right, bottom = box.tolist()
        rows, columns = _centres(top, bottom, size[0], mask), _centres(left, right, size[1], mask)
        if not len(rows) or not len(columns):
            continue
        # grid_sample counts from -1 to 1 over the mask's full extent.
        down, across = (2 * (rows + 0.5 - top) / (bottom - top) - 1), (2 * (columns + 0.5 - left) / (right - left) - 1)
        y, x = torch.meshgrid(down, across, indexing="ij")
        grid = torch.stack([x, y], dim=-1).to(mask.dtype)
        seen = F.grid_sample(mask[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
        first_row, first_column = int(rows[0]), int(columns[0])
        place[first_row : first_row + len(rows), first_column : first_column + len(columns)] = seen >= _THRESHOLD
    return pasted


def _centres(low: float, high: float, side: int, like: Tensor) -> Tensor:
    """Numbers of the pixels of an image's side whose centres lie between two places, in float64."""
    every = torch.arange(side, dtype=torch.float64, device=like.device)
    return every[(every + 0.5 >= low) & (every + 0.5 < high)]
