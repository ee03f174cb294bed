"""Our loader and pipeline against plain torchvision: the same steps by `v2.Compose`, under torch's own DataLoader.

    python benchmarks/loader.py --smoke
    python benchmarks/loader.py [--workers 0 1] [--rounds 9] [--images 512]

Both load the same uint8 images from memory, crop, flip, convert and normalise them, and stack them by 32. Ours does in addition
what Phalanx always does: random numbers that are a function of the sample, and an order that is a function of the seed. They
take turns. Prints JSON: the median images per second of both, and the median and quartiles over rounds of the ratio of ours.
`--smoke`: few small images, two rounds.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.results import commit  # noqa: E402
from phalanx.configs.sections.data import AugmentConfig, DataConfig  # noqa: E402
from phalanx.data.loading.loader import Loader, Samples  # noqa: E402
from phalanx.data.transforms.pipeline import pipeline  # noqa: E402
from phalanx.dist.microbatches.sampler import Share, Stream  # noqa: E402

BATCH, SIDE, PHOTO = 32, 224, (3, 375, 500)
SMALL_BATCH, SMALL_SIDE, SMALL_PHOTO = 4, 32, (3, 48, 64)  # of --smoke
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Images:
    """Random uint8 images in memory."""

    classes = tuple("0123456789")

    def __init__(self, count: int, shape: tuple[int, int, int]):
        self.channels, self.mean, self.std = shape[0], MEAN[: shape[0]], STD[: shape[0]]
        self._stored = torch.randint(256, (min(count, 64), *shape), dtype=torch.uint8)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self._stored[index % len(self._stored)], "target": index % 10}


class Composed(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """What a user writes."""

    def __init__(self, images: Images, steps: list[Any]):
        self._images = images
        self._transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(images.mean, images.std)])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        sample = self._images[index]
        return self._transform(sample["image"]), sample["target"]


def _cases(count: int, side: int, photo: tuple[int, int, int]) -> dict[str, tuple[Images, DataConfig, list[Any]]]:
    """Images, our configuration, their steps."""
    photos = AugmentConfig(area=(0.08, 1.0), flip=0.5)
    coloured = AugmentConfig(area=(0.08, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4)
    small = AugmentConfig(shift=2, flip=0.5)
    crop, flip = v2.RandomResizedCrop(side, antialias=True), v2.RandomHorizontalFlip(0.5)
    return {
        "photographs, crop and flip": (
            Images(count, photo),
            DataConfig(name="digits", image_size=side, augment=photos),
            [crop, flip],
        ),
        "photographs, crop, flip and colours": (
            Images(count, photo),
            DataConfig(name="digits", image_size=side, augment=coloured),
            [crop, flip, v2.ColorJitter(0.4, 0.4, 0.4)],
        ),
        "28 x 28, shift and flip": (
            Images(8 * count, (1, 28, 28)),
            DataConfig(name="digits", image_size=28, augment=small),
            [v2.Resize([28, 28]), v2.RandomCrop(28, padding=2), flip],
        ),
    }


def _ours(images: Images, config: DataConfig, workers: int, batch: int) -> Iterator[Any]:
    samples = Samples(images, pipeline(config, images, "train"), seed=1)
    stream = Stream(len(images), 1, batch, batch)
    return Loader(samples, stream, Share(0, 1, 1), workers, False).from_step(0, len(images) // batch)


def _theirs(images: Images, steps: list[Any], workers: int, batch: int) -> Iterator[Any]:
    return iter(DataLoader(Composed(images, steps), batch, shuffle=True, num_workers=workers, drop_last=True))


def _rate(batches: Iterator[Any], batch: int) -> float:
    """Images per second, the first two batches left out: loader processes start."""
    for _ in range(2):
        next(batches)
    start, count = time.perf_counter(), 0
    for _ in batches:
        count += batch
    return count / (time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--smoke", action="store_true", help="few small images, two rounds, in seconds")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    batch, side, photo = BATCH, SIDE, PHOTO
    if given.smoke:
        batch, side, photo = SMALL_BATCH, SMALL_SIDE, SMALL_PHOTO
        given.rounds, given.images = 2, 4 * batch
    results = []
    for case, (images, config, steps) in _cases(given.images, side, photo).items():
        for workers in given.workers:
            rates: dict[str, list[float]] = {"ours": [], "torchvision": []}
            for _ in range(given.rounds + 1):
                rates["torchvision"].append(_rate(_theirs(images, steps, workers, batch), batch))
                rates["ours"].append(_rate(_ours(images, config, workers, batch), batch))
            ratios = [ours / theirs for ours, theirs in zip(rates["ours"][1:], rates["torchvision"][1:], strict=True)]
            medians = {f"{name}_images_per_s": round(statistics.median(values[1:]), 1) for name, values in rates.items()}
            quartiles = [round(q, 3) for q in statistics.quantiles(ratios, n=4)]
            results.append({"case": case, "workers": workers, **medians, "ratio": quartiles[1], "ratio_quartiles": quartiles})
    machine = {"cpus": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version()}
    print(json.dumps({"date": time.strftime("%Y-%m-%d"), "commit": commit(), **machine, "results": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
