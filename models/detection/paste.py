"""Masks of boxes brought into the image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from phalanx.models.detection.targets import sent

_THRESHOLD = 0.5
_PIXELS = 1 << 24  # of all masks that a GPU pastes at a time: some 200 MB of places to look at


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixels of the image each mask covers: those whose centre has a probability of at least 0.5.

    He et al., Mask R-CNN (arXiv:1703.06870), section 3.1. A mask is interpolated linearly; outside of its box there is nothing.

    Args:
        masks: probabilities [k, h, w] within the boxes, on any device.
        boxes: left, top, right, bottom in pixels of the image, [k, 4], on the CPU.
        size: height and width of the image.

    Shape: bool [k, *size], on the device of the masks.
    """
    return paste_each(masks, boxes, size) if masks.device.type == "cpu" else paste_all(masks, boxes, size)


def paste_each(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Each mask within its box alone: what suits a CPU."""
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for mask, (left, top, right, bottom), place in zip(masks, boxes.tolist(), pasted, strict=True):
        rows, columns = _centres(top, bottom, size[0]), _centres(left, right, size[1])
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


def paste_all(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """All masks over the full image, many at a time: what suits a GPU, which is not waited for."""
    most = max(1, _PIXELS // (size[0] * size[1]))
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool, device=masks.device)
    parts = zip(*(each.split(most) for each in (masks, sent(boxes.double(), masks.device), pasted)), strict=True)
    for some, places, part in parts:
        if not len(some):
            continue
        left, top, right, bottom = places[:, :, None].unbind(dim=1)  # [k, 1] each
        rows, columns = (torch.arange(side, dtype=torch.float64, device=masks.device) + 0.5 for side in size)
        within = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]
        down, across = (2 * (rows - top) / (bottom - top) - 1), (2 * (columns - left) / (right - left) - 1)
        y, x = torch.broadcast_tensors(down.to(some.dtype)[:, :, None], across.to(some.dtype)[:, None])
        seen = F.grid_sample(some[:, None], torch.stack([x, y], dim=-1), padding_mode="border", align_corners=False)
        part.copy_((seen[:, 0] >= _THRESHOLD) & within)
    return pasted


def _centres(low: float, high: float, side: int) -> Tensor:
    """Numbers of the pixels of an image's side whose centres lie between two places, in float64."""
    every = torch.arange(side, dtype=torch.float64)
    return every[(every + 0.5 >= low) & (every + 0.5 < high)]
