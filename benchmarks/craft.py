"""Training craft against none, in equal time: classification, segmentation and detection, one comparison each.

    python benchmarks/craft.py --smoke
    python benchmarks/craft.py [--fashion FOLDER] [--camvid FOLDER] [--bccd FOLDER] [--seconds 300] [--work FOLDER]

Each comparison trains a recipe twice on two ranks, in as many steps as the time allows by a probe before: without (a constant
learning rate, no average of the weights, no warm-up, every parameter decayed, nothing else) and with what
`docs/optimization.md` has for it. FOLDERs are in the layouts of `data.name=fashion_mnist`, `masks` and `voc`. Prints JSON, a
line a run: metric, steps, seconds. `--smoke`: both of one comparison, in a few steps on images that are made.
"""

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RANKS, _PROBE, _MARGIN = 2, 12, 0.93
_PLAIN = ["schedule.name=constant", "schedule.warmup_steps=0", "optim.no_decay=[]", "train.ema=null", "train.ema_ramp=null"]
_CYCLE = ["schedule.name=one_cycle", "schedule.warmup_steps=0", "schedule.final=0.001", "optim.no_decay=[norm,bias]"]


class Comparison(NamedTuple):
    """A recipe, its metric, and its overrides without and with craft."""

    name: str
    recipe: str
    metric: str
    without: Sequence[str]
    craft: Sequence[str]


COMPARISONS = [
    Comparison(
        "classification",
        "fashion_mnist_resnet18",
        "val/top1",
        _PLAIN,
        [*_CYCLE, "optim.lr=0.1", "loss.label_smoothing=0.05", "train.ema=0.99", "train.ema_ramp=50"],
    ),
    Comparison(
        "segmentation",
        "camvid_deeplabv3plus",
        "val/miou",
        _PLAIN,
        [
            *(
                *_CYCLE,
                "optim.lr=2e-3",
                "train.clip_norm=5",
                "data.augment.crop_most=0.75",
                "train.ema=0.98",
                "train.ema_ramp=50",
            ),
            *("model.stem=resnet_d", "model.options.auxiliary=true", "loss.auxiliary=0.4"),
        ],
    ),
    Comparison(
        "detection",
        "bccd_yolov8n",
        "val/ap50",
        [*_PLAIN, "schedule.warmup_momentum=null", "data.augment.mosaic=0"],
        [*_CYCLE, "schedule.warmup_momentum=null", "optim.lr=2e-3", "train.clip_norm=10"],
    ),
]


def _train(own: Comparison, name: str, more: Sequence[str], steps: int, work: Path, data: Sequence[str]) -> tuple[float, Path]:
    from benchmarks.commands import Commands

    given = [str(ROOT / f"configs/recipes/{own.recipe}.yaml"), str(ROOT / "configs/cluster/local.yaml"), *data, *more]
    given += [f"name={name}", f"runs={work}", f"train.steps={steps}", "train.eval_every=null", "checkpoint.best=null"]
    shutil.rmtree(work / name, ignore_errors=True)
    return Commands().train([*given, "train.log_every=1", "checkpoint.every_steps=null"], RANKS)[0], work / name


def measure(own: Comparison, seconds: float, work: Path, data: Sequence[str]) -> None:
    from phalanx.dist.storage.json_lines import read_lines

    for label, more in (("without", own.without), ("with", own.craft)):
        name = f"{own.name}-{label}"
        took, run = _train(own, f"{name}-probe", more, _PROBE, work, data)
        times = [line["time"] for line in read_lines(run / "metrics.jsonl")][2:-1]
        step = statistics.median(after - before for before, after in itertools.pairwise(times))
        steps = max(4, int((seconds - (took - _PROBE * step)) / step * _MARGIN))
        took, run = _train(own, name, more, steps, work, data)
        last = list(read_lines(run / "metrics.jsonl"))[-1]
        row = {"comparison": own.name, "run": label, "metric": own.metric, "value": round(last[own.metric], 4)}
        print(json.dumps(row | {"steps": steps, "seconds": round(took, 1), "overrides": list(more)}), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fashion", "camvid", "bccd"):
        parser.add_argument(f"--{name}", metavar="FOLDER", help="its data; left out without")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/craft")
    parser.add_argument("--smoke", action="store_true", help="one comparison in a few steps")
    given = parser.parse_args(arguments)
    if given.smoke:
        with tempfile.TemporaryDirectory(prefix="craft-") as folder:
            small = ["data.name=digits", "data.root=null", "data.image_size=8", "model.stem=small", "data.workers=0"]
            own = COMPARISONS[0]
            for label, more in (("without", own.without), ("with", own.craft)):
                _train(own, label, [*more, *small, "train.global_batch=8", "train.micro_batch=4"], 2, Path(folder), [])
        return 0
    given.work.mkdir(parents=True, exist_ok=True)
    for own, folder in zip(COMPARISONS, (given.fashion, given.camvid, given.bccd), strict=True):
        if folder is not None:
            measure(own, given.seconds, given.work.resolve(), [f"data.root={folder}"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
