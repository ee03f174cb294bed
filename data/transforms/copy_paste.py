"""Copy-paste: objects of one image pasted onto another (Ghiasi et al., arXiv:2012.07177, section 3).

Random numbers are a function of (seed, step, the micro-batch's sample ids): the same on any rank, before and after a resume.
"""

import random
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from phalanx.dist.microbatches.randomness import key

MicroBatch = dict[str, Any]


class CopyPaste:
    """Each sample of a micro-batch gets some objects of the previous one, cyclically.

    Args:
        probability: that a sample gets any; each object of the other is then pasted with probability 1/2.
    """

    def __init__(self, probability: float, seed: int):
        self._probability, self._seed = probability, seed

    def __call__(self, step: int, batch: MicroBatch) -> MicroBatch:
        """A micro-batch with objects pasted; completely covered ones are dropped, others lose the covered part.

        Shape: `image` [m, C, H, W]; of each image `boxes` [n, 4], `labels` [n], `masks` bool [n, H, W].
        """
        draws = random.Random(key(self._seed, "paste", step, *batch["id"].tolist()))
        image = batch["image"].clone()
        changed: MicroBatch = {"image": image, "boxes": [], "labels": [], "masks": []}
        for place in range(len(image)):
            own = {name: batch[name][place] for name in ("boxes", "labels", "masks")}
            there, chosen = len(batch["labels"][place - 1]), draws.random() < self._probability
            taken = torch.tensor([draws.random() < 0.5 for _ in range(there)], dtype=torch.bool)
            if chosen and taken.any():
                others = {name: batch[name][place - 1][taken] for name in own}
                over = others["masks"].any(dim=0)
                image[place] = torch.where(over.to(image.device), batch["image"][place - 1], image[place])
                own = _covered(own, over)
                own = {name: torch.cat([own[name], others[name]]) for name in own}
            for name, value in own.items():
                changed[name].append(value)
        return batch | changed


def _covered(own: dict[str, Tensor], over: Tensor) -> dict[str, Tensor]:
    """Partly covered objects: masks without the covered part, boxes around the rest; fully covered ones are dropped."""
    masks = own["masks"] & ~over
    left = masks.flatten(1).any(dim=1)
    touched = (masks != own["masks"]).flatten(1).any(dim=1)
    boxes = own["boxes"].clone()
    if (touched & left).any():
        around = masks_to_boxes(masks[touched & left])  # right and bottom are the last pixels
        boxes[touched & left] = (around + around.new_tensor([0, 0, 1, 1])).to(boxes.dtype)
    return {"boxes": boxes[left], "labels": own["labels"][left], "masks": masks[left]}
