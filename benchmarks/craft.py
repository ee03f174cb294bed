"""Training craft against none, in equal time: classification, segmentation and detection, one comparison each.

    python benchmarks/craft.py --smoke
    python benchmarks/craft.py [--fashion FOLDER] [--camvid FOLDER] [--bccd FOLDER] [--seconds 300] [--probes 3] [--work FOLDER]

Each comparison trains a recipe twice on two ranks: without craft (a constant learning rate, no warm-up, no average of the
weights, every parameter decayed, no augmentation but mirroring) and with what `docs/optimization.md` has for it. Short runs of
both in turn tell how many steps of each the time allows. FOLDERs are in the layouts of `data.name=fashion_mnist`, `masks` and
`voc`. Prints JSON, a line a run: metric, steps, seconds. `--smoke`: both runs of one comparison, in a few steps.
"""

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.commands import Commands, Forks, Phalanx, lines  # noqa: E402 (the root is on the path now)

RANKS = 2
_PLAIN = ["schedule.name=constant", "schedule.warmup_steps=0", "optim.no_decay=[]", "train.ema=null", "train.ema_ramp=null"]
_AVERAGED = ["optim.no_decay=[norm,bias]", "train.ema=0.98", "train.ema_ramp=30"]
_ONE_CYCLE = ["schedule.name=one_cycle", "schedule.warmup_steps=0", "schedule.warmup_momentum=null", "schedule.final=0.001"]


class Comparison(NamedTuple):
    """A recipe, its metric, and its overrides in the run without and in the one with craft."""

    name: str
    recipe: str
    metric: str
    runs: Mapping[str, Sequence[str]]


COMPARISONS = [
    Comparison(
        "classification",
        "fashion_mnist_resnet18",
        "val/top1",
        {"without": _PLAIN, "with": ["schedule.warmup_steps=50", *_AVERAGED]},
    ),
    Comparison(
        "segmentation",
        "camvid_deeplabv3plus",
        "val/miou",
        {"without": [*_PLAIN, "data.augment.scale=null"], "with": _AVERAGED},
    ),
    Comparison(
        "detection",
        "bccd_yolov8n",
        "val/ap50",
        {
            "without": [
                *(*_PLAIN, "schedule.warmup_momentum=null", "data.augment.mosaic=0"),
                *("data.augment.brightness=0", "data.augment.saturation=0", "data.augment.hue=0"),
            ],
            "with": [*_ONE_CYCLE, "train.clip_norm=10"],
        },
    ),
]


class Bench:
    """Makes the runs of a comparison in a folder."""

    def __init__(self, phalanx: Phalanx, work: Path, data: Sequence[str], probe_steps: int):
        self._phalanx, self._work, self._data, self._probe_steps = phalanx, work, data, probe_steps

    def _train(self, own: Comparison, name: str, more: Sequence[str], steps: int) -> tuple[float, list[dict[str, Any]]]:
        """Seconds of the command, and the lines of its metrics."""
        given = [str(ROOT / f"configs/recipes/{own.recipe}.yaml"), str(ROOT / "configs/cluster/local.yaml"), *more, *self._data]
        given += [f"name={name}", f"runs={self._work}", f"train.steps={steps}", "train.log_every=1"]
        given += ["train.eval_every=null", "checkpoint.best=null", "checkpoint.every_steps=null"]
        shutil.rmtree(self._work / name, ignore_errors=True)
        took = self._phalanx.train(given, RANKS)[0]
        return took, lines(self._work / name / "metrics.jsonl")

    def _probe(self, own: Comparison, run: str) -> tuple[float, float]:
        """Seconds of a step, and of all besides, in a short run."""
        took, logged = self._train(own, f"{own.name}-{run}-probe", own.runs[run], self._probe_steps)
        times = [line["time"] for line in logged][1:-1]  # the first step warms up, the last line waits for the evaluation
        step = statistics.median(after - before for before, after in itertools.pairwise(times))
        return step, took - self._probe_steps * step

    def measure(self, own: Comparison, seconds: float, probes: int) -> Iterator[dict[str, Any]]:
        """A line for each of the two runs."""
        found: dict[str, list[tuple[float, float]]] = {run: [] for run in own.runs}
        for _ in range(probes):
            for run in own.runs:
                found[run].append(self._probe(own, run))
        for run, overrides in own.runs.items():
            step, besides = (statistics.median(column) for column in zip(*found[run], strict=True))
            steps = max(3, round((seconds - besides) / step))
            took, logged = self._train(own, f"{own.name}-{run}", overrides, steps)
            yield {
                "comparison": own.name,
                "run": run,
                "metric": own.metric,
                "value": round(logged[-1][own.metric], 4),
                "steps": steps,
                "seconds": round(took, 1),
                "overrides": list(overrides),
            }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fashion", "camvid", "bccd"):
        parser.add_argument(f"--{name}", metavar="FOLDER", help="its data; left out without")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--probes", type=int, default=3, help="short runs of each, in turn, before")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/craft")
    parser.add_argument("--smoke", action="store_true", help="one comparison in a few steps")
    given = parser.parse_args(arguments)
    if given.smoke:
        phalanx, own = Forks(), COMPARISONS[0]
        small = ["data.name=digits", "data.root=null", "data.image_size=8", "model.stem=small", "data.workers=0"]
        small += ["train.global_batch=8", "train.micro_batch=4"]
        with tempfile.TemporaryDirectory(prefix="craft-") as folder:
            for row in Bench(phalanx, Path(folder), small, probe_steps=4).measure(own, 0, 1):
                print(json.dumps(row), flush=True)
        return 0
    from benchmarks.results import commit

    given.work.mkdir(parents=True, exist_ok=True)
    for own, folder in zip(COMPARISONS, (given.fashion, given.camvid, given.bccd), strict=True):
        if folder is not None:
            bench = Bench(Commands(), given.work.resolve(), [f"data.root={folder}"], probe_steps=40)
            for row in bench.measure(own, given.seconds, given.probes):
                print(json.dumps(row | {"commit": commit(), "date": time.strftime("%Y-%m-%d")}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
