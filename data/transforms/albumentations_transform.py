"""A transform of albumentations among a user's own augmentations: on arrays, with the boxes and masks of objects.

Buslaev et al., Albumentations: Fast and Flexible Image Augmentations, Information 11(2), 2020 (arXiv:1809.06839).
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F


def is_one(transform: Any) -> bool:
    """Whether albumentations made a transform; the package is not imported."""
    return type(transform).__module__.partition(".")[0] == "albumentations"


class Albumentations:
    """A transform, or a `Compose`, as a function of the entries of a sample.

    Its random numbers are drawn from torch's generator, which is seeded for each sample. Settings of boxes of a `Compose`
    (`bbox_params`) are replaced: boxes and their masks stay together here.
    """

    def __init__(self, transform: Any):
        import albumentations

        compose = isinstance(transform, albumentations.Compose)
        self._steps = list(transform.transforms) if compose else [transform]
        self._made: dict[bool, Any] = {}

    def __call__(self, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        Shape: `image` [C, H, W], `mask` [H, W], `boxes` [n, 4], `masks` [n, H, W], all but the first optional, to the same,
        with empty boxes where objects are no longer seen.
        """
        given: dict[str, Any] = {"image": entries["image"].permute(1, 2, 0).numpy()}
        if "mask" in entries:
            given["mask"] = entries["mask"].numpy()
        if masked := "masks" in entries and len(entries["masks"]) > 0:
            given["masks"] = entries["masks"].to(torch.uint8).numpy()
        seen: list[int] = []
        if "boxes" in entries:
            boxes = F.clamp_bounding_boxes(entries["boxes"]).as_subclass(Tensor)
            seen = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1).nonzero()[:, 0].tolist()
            given |= {"bboxes": boxes[seen].numpy(), "number": seen}
        transform = self._compose("boxes" in entries)
        seed = int(torch.randint(2**31, ()))
        # One generator for all steps: by `set_random_seed` each step would draw the same numbers.
        transform.set_random_state(numpy.random.default_rng(seed), random.Random(seed))
        changed = transform(**given)
        image = torch.from_numpy(changed["image"].copy())
        result = dict(entries) | {"image": tv_tensors.Image((image if image.dim() == 3 else image[..., None]).permute(2, 0, 1))}
        if "mask" in entries:
            result["mask"] = tv_tensors.Mask(torch.from_numpy(changed["mask"].copy()))
        if masked:
            result["masks"] = tv_tensors.Mask(torch.from_numpy(changed["masks"].copy()).to(entries["masks"].dtype))
        if "boxes" in entries:
            moved = torch.zeros_like(entries["boxes"].as_subclass(Tensor))
            numbers = [int(number) for number in changed["number"]]
            moved[numbers] = torch.as_tensor(changed["bboxes"], dtype=moved.dtype).view(-1, 4)
            size = (result["image"].shape[-2], result["image"].shape[-1])
            result["boxes"] = tv_tensors.BoundingBoxes(moved, format="XYXY", canvas_size=size)
        return result

    def _compose(self, with_boxes: bool) -> Any:
        if with_boxes not in self._made:
            import albumentations

            boxes = albumentations.BboxParams("pascal_voc", label_fields=["number"]) if with_boxes else None
            self._made[with_boxes] = albumentations.Compose(self._steps, bbox_params=boxes)
        return self._made[with_boxes]
