"""The yardstick of `camvid.py`: the same network and data in a plain loop, as a user writes it, in one process.

    python benchmarks/camvid_by_hand.py --smoke
    python benchmarks/camvid_by_hand.py CONFIG.json SECONDS RESULT.json

The configuration is a run's, as Phalanx resolved it; network, sizes, batch, optimizer, schedule, augmentation and
precision are read from it, and built here with nothing but torch and torchvision. The schedule follows the clock. Writes steps,
seconds and mIoU. `--smoke`: half a second on a folder that is made; prints what it would write.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# As long as reading the weights of a run, evaluating it and writing its figures take.
_EVALUATION_SHARE = 0.03
_STOPPED_S = 10.0  # no step takes so long


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Images and masks of a split."""

    def __init__(self, root: Path, split: str, transform: v2.Transform):
        self._images = sorted((root / "images" / split).iterdir())
        self._masks = sorted((root / "masks" / split).iterdir())
        self._transform = transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = tv_tensors.Image(decode_image(str(self._images[index]), ImageReadMode.RGB))
        mask = tv_tensors.Mask(decode_image(str(self._masks[index]), ImageReadMode.UNCHANGED)[0])
        image, mask = self._transform(image, mask)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).long()


def _training(size: tuple[int, int], augment: dict[str, Any], ignored: int) -> v2.Transform:
    """A random scale of the size, a random crop, flips, normalisation."""
    fill = {tv_tensors.Mask: ignored, "others": [round(255 * level) for level in _MEAN]}
    return v2.Compose(
        [
            v2.ScaleJitter(size, tuple(augment["scale"]), antialias=True),
            v2.RandomCrop(size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(augment["flip"]),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(_MEAN, _STD),
        ]
    )


def _endless(loader: DataLoader[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader


def _layout(config: dict[str, Any]) -> torch.memory_format:
    return torch.channels_last if config["dist"]["channels_last"] else torch.contiguous_format


def _precision(config: dict[str, Any]) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=config["dist"]["precision"] == "bf16")


def train(config: dict[str, Any], root: Path, seconds: float) -> tuple[torch.nn.Module, int]:
    """The network after so many seconds, and its number of steps."""
    from phalanx.models import registry
    from phalanx.models.options import choices

    torch.manual_seed(config["seed"])
    data, optim, model_keys = config["data"], config["optim"], config["model"]
    size, classes = tuple(data["image_size"]), len((root / "classes.txt").read_text().splitlines())
    model = registry.get(model_keys["name"]).build(num_classes=classes, **choices(model_keys, size))
    layout = _layout(config)
    model.to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=optim["lr"], weight_decay=optim["weight_decay"])
    pairs = Pairs(root, data["train_split"], _training(size, data["augment"], data["ignore_index"]))
    loader = DataLoader(pairs, config["train"]["global_batch"], shuffle=True, drop_last=True, num_workers=1)
    before, passed, last = time.monotonic(), 0.0, 0.0
    for step, (image, mask) in enumerate(_endless(loader)):
        now = time.monotonic()
        last = now - before if now - before < _STOPPED_S else last  # it was stopped meanwhile, see `in_turns.py`
        before, passed = now, passed + last
        share = passed / seconds
        if share >= 1:
            return model, step
        for group in optimizer.param_groups:
            group["lr"] = optim["lr"] * (1 - share) ** config["schedule"]["power"]
        with _precision(config):
            logits = model(image.contiguous(memory_format=layout))
        loss = F.cross_entropy(logits.float(), mask, ignore_index=data["ignore_index"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"{step} steps, {share:.0%} of the time, loss {loss.item():.3f}", file=sys.stderr, flush=True)
    raise AssertionError("an endless loader has ended")


def mean_iou(model: torch.nn.Module, config: dict[str, Any], root: Path) -> float:
    """Over the classes that there are, at the masks' own size."""
    size, classes = tuple(config["data"]["image_size"]), len((root / "classes.txt").read_text().splitlines())
    normalise = v2.Compose([v2.Resize(size, antialias=True), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)])
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    model.eval()
    with torch.inference_mode(), _precision(config):
        pairs = Pairs(root, config["data"]["val_split"], v2.Identity())
        for image, mask in (pairs[number] for number in range(len(pairs))):
            one = normalise(tv_tensors.Image(image)).as_subclass(Tensor).unsqueeze(0)
            logits = model(one.contiguous(memory_format=_layout(config))).float()
            found = F.interpolate(logits, mask.shape, mode="bilinear").argmax(1)[0]
            known = mask < classes
            counts += torch.bincount(mask[known] * classes + found[known], minlength=classes**2).view(classes, classes)
    hits = counts.diagonal()
    return float((hits / (counts.sum(0) + counts.sum(1) - hits)).nanmean())


def measure(config: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Steps, seconds and mIoU."""
    begun, root = time.monotonic(), Path(config["data"]["root"])
    model, steps = train(config, root, seconds * (1 - _EVALUATION_SHARE))
    return {"steps": steps, "miou": mean_iou(model, config, root), "seconds": time.monotonic() - begun}


def _smoke() -> dict[str, Any]:
    from benchmarks.camvid import BY_HAND, RECIPE, small_cases
    from benchmarks.support.small_data import camvid
    from phalanx.configs.load import load

    case = next(case for case in small_cases() if case.label.endswith(BY_HAND))
    with tempfile.TemporaryDirectory(prefix="camvid-") as folder:
        root = camvid(Path(folder) / "data")
        (root / "classes.txt").write_text("\n".join((root / "classes.txt").read_text().split()[:-1]))  # without void
        config = load([str(RECIPE)], [*case.more, f"data.root={root}", "name=by-hand"])
        return measure(config.model_dump(mode="json"), case.seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="half a second on a folder that is made")
    parser.add_argument("config", type=Path, nargs="?", help="a run's configuration as JSON")
    parser.add_argument("seconds", type=float, nargs="?", help="how long it trains and evaluates")
    parser.add_argument("result", type=Path, nargs="?", help="the file that is written")
    given = parser.parse_args(arguments)
    if given.smoke:
        print(json.dumps(_smoke()))
        return 0
    if given.result is None:
        parser.error("give CONFIG.json SECONDS RESULT.json, or --smoke")
    given.result.write_text(json.dumps(measure(json.loads(given.config.read_text()), given.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
