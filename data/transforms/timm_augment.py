"""timm's RandAugment, AutoAugment and AugMix by their specifications, for recipes that were found with them.

timm's own operations on 8-bit images of Pillow, as its `create_transform` sets them up (Wightman et al., arXiv:2110.00476).
They draw from Python's and numpy's generators, which are seeded from torch's for each image.
"""

import importlib.util
import random
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import Interpolation

_SHIFT, _SHIFT_OF_AUGMIX = 0.45, 0.3  # largest shift, as a share of the short side


class TimmAugment:
    """A specification's operations.

    Args:
        specification: such as `rand-m7-mstd0.5-inc1`, `augmix-m3-w3` or `original-mstd0.5`.
        size: height and width of the images.
        mean: the mean of each channel, between 0 and 1, which fills what is not covered.
        interpolation: of rotations and shears; bilinear or bicubic by chance where it is `random`.

    Raises:
        UserError: if timm is not installed, or cannot read the specification.
    """

    def __init__(self, specification: str, size: Sequence[int], mean: Sequence[float], interpolation: Interpolation):
        if importlib.util.find_spec("timm") is None:
            raise UserError("data.augment.timm needs timm, which is not installed. Run: pip install timm.", shared=True)
        from timm.data import auto_augment as timm_augment

        fill = tuple(min(255, round(255 * level)) for level in mean)
        made: dict[str, Any] = {"translate_const": int(min(size) * _SHIFT), "img_mean": fill}
        if interpolation != "random":
            made["interpolation"] = Image.Resampling[interpolation.upper()]
        if specification.startswith("augmix"):
            made["translate_pct"] = _SHIFT_OF_AUGMIX
        makers = {"rand": timm_augment.rand_augment_transform, "augmix": timm_augment.augment_and_mix_transform}
        maker = makers.get(specification.partition("-")[0], timm_augment.auto_augment_transform)
        try:
            self._operations: Any = maker(specification, made)
        except (AssertionError, ValueError, KeyError) as error:
            raise UserError(
                f"data.augment.timm={specification}: timm cannot read it ({error or 'an unknown part'}). Write it as timm "
                "does, such as rand-m9-mstd0.5-inc1.",
                shared=True,
            ) from error

    def __call__(self, image: Tensor) -> Tensor:
        """Shape: [3, H, W] to the same; uint8. An image of another type is made one, and back."""
        drawn = int(torch.randint(2**32, ()))
        random.seed(drawn)
        numpy.random.seed(drawn)
        pillow = F.to_pil_image(image)
        changed: Tensor = F.pil_to_tensor(self._operations(pillow)).to(image.device)
        return changed if not image.is_floating_point() else changed.to(image.dtype) / 255
