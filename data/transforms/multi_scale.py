"""Images of another size at every step (Redmon and Farhadi, YOLO9000, arXiv:1612.08242, section 2).

The size is a function of (seed, step): all micro-batches of a step, on any rank, before and after a resume, have the same.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from phalanx.data.transforms.fit import resize
from phalanx.dist.microbatches.randomness import key

MicroBatch = dict[str, Any]


class MultiScale:
    """Resizes the network's input, with boxes and masks.

    Args:
        sizes: to choose from, short sides in pixels.
        every: steps between two choices.
        short_side: the images' current one.
        antialias: see `data.antialias`.
    """

    def __init__(self, sizes: Sequence[int], short_side: int, seed: int, every: int = 1, antialias: bool = True):
        self._sizes, self._short_side, self._seed, self._every = tuple(sizes), short_side, seed, every
        self._antialias = antialias

    def size(self, step: int) -> int:
        """Short side of the images of a step, counted from 0."""
        return random.Random(key(self._seed, "size", step // self._every * self._every)).choice(self._sizes)

    def __call__(self, step: int, batch: MicroBatch) -> MicroBatch:
        """A micro-batch resized. Shape: unchanged, except for height and width of `image` and of each of `masks`."""
        factor = self.size(step) / self._short_side
        images: Tensor | list[Tensor] = batch["image"]
        changed: MicroBatch = {"boxes": []}
        if isinstance(images, Tensor):
            changed["image"] = self._resized(images, factor)
        else:
            changed["image"] = [self._resized(image, factor) for image in images]
        for boxes, before, after in zip(batch["boxes"], images, changed["image"], strict=True):
            height, width = (new / old for new, old in zip(after.shape[-2:], before.shape[-2:], strict=True))
            changed["boxes"].append(boxes * boxes.new_tensor([width, height, width, height]))
        if "masks" in batch:
            pairs = zip(batch["masks"], changed["image"], strict=True)
            changed["masks"] = [resize(tv_tensors.Mask(masks), image.shape[-2:]).as_subclass(Tensor) for masks, image in pairs]
        return batch | changed

    def _resized(self, image: Tensor, factor: float) -> Tensor:
        """Bilinearly, image by image: kernels for a full batch may round differently. Shape: [..., C, H, W]."""
        size = [max(1, round(side * factor)) for side in image.shape[-2:]]
        if image.dim() == 4:
            return torch.stack([self._resized(one, factor) for one in image])
        return resize(image, size, antialias=self._antialias)
