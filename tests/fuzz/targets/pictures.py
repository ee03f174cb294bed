"""Small images in every format, and what opens a data set of them."""

import io
from functools import cache
from typing import Any

import numpy


@cache
def image(form: str = "PNG", mode: str = "RGB", width: int = 12, height: int = 10, seed: int = 0, **how: Any) -> bytes:
    """The bytes of a picture of noise; class numbers 0 to 2 where its mode is L."""
    from PIL import Image

    draws = numpy.random.default_rng(seed)
    if mode == "I;16":
        picture = Image.fromarray(draws.integers(0, 65536, (height, width), dtype=numpy.uint16))
    else:
        colours = draws.integers(0, 3 if mode in ("L", "P") else 256, (height, width, 3), dtype=numpy.uint8)
        picture = Image.fromarray(colours[..., 0]) if mode in ("L", "P") else Image.fromarray(colours)
        picture = picture.convert(mode) if picture.mode != mode else picture
    content = io.BytesIO()
    picture.save(content, form, **how)
    return content.getvalue()


def open_and_check(config: Any, samples: int = 3) -> None:
    """What a training does with its data before the first step: opens both splits, checks them, reads and prepares some.

    Raises:
        Broken: where what was accepted is not what a task could learn from.
    """
    from phalanx.data import dataset_info
    from phalanx.data.inspect.check import check_part, judge
    from phalanx.data.open import open_split
    from phalanx.data.transforms.pipeline import pipeline

    splits = {split: open_split(config, split) for split in ("train", "val")}  # type: ignore[arg-type]
    for split, dataset in splits.items():
        judge(check_part(dataset, config, 0, 1, lambda: None), dataset, config, split)  # type: ignore[arg-type]
        dataset_info.class_counts(dataset)
        prepared = pipeline(config, dataset, split)  # type: ignore[arg-type]
        for number in range(min(samples, len(dataset))):
            sample = dataset[number]
            _usable(sample, dataset)
            prepared(sample)


def _usable(sample: dict[str, Any], dataset: Any) -> None:
    import torch

    from tests.fuzz.law import Broken

    height, width = sample["image"].shape[1:]
    classes = len(dataset.classes)
    if "boxes" in sample:
        boxes, labels = sample["boxes"], sample["labels"]
        limits = torch.tensor([width, height] * 2)
        if not (boxes.isfinite().all() and (boxes >= 0).all() and (boxes <= limits).all()):
            raise Broken("a box that is not in its image")
        if not (boxes[:, 2:] >= boxes[:, :2]).all() or not ((labels >= 0) & (labels < classes)).all():
            raise Broken("a box with a negative side, or of no class")
        if "masks" in sample and sample["masks"].shape != (len(boxes), height, width):
            raise Broken("masks of another shape")
    if "mask" in sample and sample["mask"].shape != (height, width):
        raise Broken("a mask of another shape")
    if "target" in sample and not isinstance(sample["target"], torch.Tensor) and not 0 <= int(sample["target"]) < classes:
        raise Broken("a target that is not a class")
