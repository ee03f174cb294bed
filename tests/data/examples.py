"""Small datasets made of random numbers: of classes, of masks, of boxes; images of several sizes."""

from collections.abc import Sequence
from typing import Any

import torch

from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.data.loading import order
from phalanx.data.loading.loader import Loader, Samples
from phalanx.data.transforms.batchwise import batchwise
from phalanx.data.transforms.mosaic_loading import mosaics
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.microbatches.sampler import share
from tests.support.running import DIGITS

GLOBAL_BATCH, MICRO_BATCH = 16, 4


class Noise:
    """Images of random uint8 pixels, 20 to 29 high and 31 wide, each with a class, a mask, or boxes with masks."""

    classes = ("sky", "road", "tree")
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.26, 0.27)

    def __init__(self, kind: str = "classification", channels: int = 3, samples: int = 21, with_masks: bool = True):
        self.kind, self.channels, self._samples = kind, channels, samples
        self.mean, self.std = Noise.mean[:channels], Noise.std[:channels]
        self.has_masks = with_masks

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, Any]:
        draws = torch.Generator().manual_seed(index)
        height, width = 20 + index % 10, 31
        image = torch.randint(256, (self.channels, height, width), generator=draws, dtype=torch.uint8)
        if self.kind == "segmentation":
            return {"image": image, "mask": torch.randint(3, (height, width), generator=draws, dtype=torch.uint8)}
        if self.kind == "detection":
            count = index % 3
            corner = torch.rand(count, 2, generator=draws) * 12
            boxes = torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=draws) * 6], dim=1)
            masks = torch.zeros(count, height, width, dtype=torch.bool)
            for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
                mask[top:bottom, left:right] = True
            return {"image": image, "boxes": boxes, "labels": torch.arange(count)} | (
                {"masks": masks} if self.has_masks else {}
            )
        return {"image": image, "target": index % 3}


def recipe(*overrides: str) -> RunConfig:
    """A recipe without augmentation, but for what is given."""
    plain = ["data.augment.shift=0", f"train.global_batch={GLOBAL_BATCH}", f"train.micro_batch={MICRO_BATCH}"]
    return load([DIGITS], [*plain, "data.image_size=[16,24]", *overrides])


def loader(
    config: RunConfig, dataset: Any, rank: int = 0, world: int = 1, workers: int = 0, device: torch.device | None = None
) -> Loader:
    """The training stream of a rank."""
    seen = pipeline(config.data, dataset, "train")
    samples = Samples(dataset, seen, config.seed, mosaics(config, dataset, seen))
    mine = share(config.micro_batches, rank, world)
    return Loader(samples, order.stream(config, dataset), mine, workers, False, batchwise(config, dataset), device)


def steps(loaders: Sequence[Loader], first: int, last: int) -> list[list[dict[str, Any]]]:
    """The micro-batches of each step over all ranks, in the order of their numbers."""
    per_rank = [list(one.from_step(first, last)) for one in loaders]
    return [[m for batch in batches for m in batch.micro_batches] for batches in zip(*per_rank, strict=True)]


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last bit, types and shapes too."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    else:
        assert one == other
