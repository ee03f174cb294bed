"""Detectors on BCCD, photographs of blood cells, from scratch, on two CPU ranks, in minutes.

    python benchmarks/bccd.py --smoke
    python benchmarks/bccd.py --root FOLDER [--only LABEL ...] [--work FOLDER] [--output docs/bccd.md]
                              [--results docs/results/bccd.jsonl]

FOLDER is in VOC's layout, with the splits train, val and test. Each run is a `phalanx train` of
`configs/recipes/bccd_yolov8n.yaml`, with another network but for the first, on 2 ranks whose BatchNorm is synchronised. The
checkpoint that is best on val (AP50) is evaluated once on test. Prints JSON, a line a run, and writes Markdown and the curves.
It resumes where it was stopped: runs whose line is in the results file are not made again, and one that was cut short is
resumed. Exit code 1 where a network has learnt nothing: an AP50 below 0.3. `--smoke`: a step on a folder of that
layout that it makes, nothing of it kept.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.commands import Commands, Forks, Phalanx, file_name, lines, spent  # noqa: E402 (the root is on the path now)
from benchmarks.curves import svg  # noqa: E402

RECIPE = ROOT / "configs/recipes/bccd_yolov8n.yaml"
RANKS = 2
SHOWN = 3  # images
LEAST = 0.3


class Run(NamedTuple):
    """A network of the registry, and what it has besides the recipe."""

    label: str
    more: Sequence[str]


# `phalanx data configs/recipes/bccd_yolov8n.yaml data.root=FOLDER --anchors`
_ANCHORS = "model.options.anchors=[23,22,62,15,18,61,42,39,51,58,70,44,66,64,85,77,127,117]"
_SHORT = ["train.epochs=25", "data.augment.mosaic_epochs=18"]
RUNS = [
    Run("yolov8n", []),
    Run("yolov5n", ["model.name=yolov5n", _ANCHORS, *_SHORT]),
    Run("yolov3 of 8 channels", ["model.name=yolov3", "model.options.channels=8", _ANCHORS, *_SHORT]),
    Run("yolox_nano", ["model.name=yolox_nano", *_SHORT]),
    Run(
        "faster_rcnn on a ResNet-18",
        [
            *("model.name=faster_rcnn", "model.backbone=resnet18", "data.augment.mosaic=0", "data.augment.mosaic_epochs=null"),
            "model.options={anchors: [16, 32, 64, 128, 256], samples: 128, hidden: 256}",
            *("optim.lr=1e-3", "schedule.warmup_momentum=null", "dist.precision=bf16", "dist.channels_last=true"),
            *("train.epochs=16", "train.eval_every=82", "train.ema=0.98", "train.ema_ramp=50"),
        ],
    ),
]
_TINY = [
    *("data.image_size=[64, 64]", "data.augment.mosaic_epochs=1", "data.workers=0", "train.epochs=1", "train.eval_every=null"),
    *("train.global_batch=4", "train.micro_batch=2", "schedule.warmup_steps=0", "schedule.warmup_momentum=null"),
]
SMALL_RUN = Run("yolov8n", _TINY)
PICTURED = ("yolov8n", "faster_rcnn on a ResNet-18")


def train(run: Run, root: Path, work: Path, phalanx: Phalanx) -> dict[str, Any]:
    """The run, from its beginning or from where it was stopped; and the figures of its best checkpoint on test."""
    folder = work / file_name(run.label)
    before = spent(folder)
    arguments = [str(RECIPE), str(ROOT / "configs/cluster/local.yaml"), *run.more, f"data.root={root}"]
    took, peak = phalanx.train([*arguments, f"name={folder.name}", f"runs={work}"], RANKS)
    logged = lines(folder / "metrics.jsonl")
    told = json.loads(phalanx.run("evaluate", str(folder), "--best", "--split", "test", "--json"))
    begun, validated = logged[0]["time"], [line for line in logged if "val/ap50" in line]
    return {
        "steps": logged[-1]["step"],
        "best_step": told["step"],
        "seconds": round(before + took, 1),
        "resumed": before > 0,
        "peak_mb": peak,
        "test": {name: told[name] for name in ("ap50", "ap", "ap75")},
        "classes": {row["class"]: row["ap50"] for row in told["per_class"]},
        "val": [[line["step"], round(line["time"] - begun, 1), line["val/ap50"]] for line in validated],
        "loss": [[line["step"], line["train/loss"]] for line in logged if "train/loss" in line][::10],
        "overrides": list(run.more),
    }


def draw(folder: Path, root: Path, shown: Path, phalanx: Phalanx) -> None:
    """Pictures of a run: precision over recall on test, and what it sees in the first images of that, side by side."""
    from PIL import Image

    from benchmarks import sheets

    curve, predictions = (shown / name for name in pictures(folder.name))
    shutil.copy(folder / "pictures/precision_recall.png", curve)
    names = (root / "ImageSets/Main/test.txt").read_text().split()[:SHOWN]
    seen, told = sheets.predicted(
        phalanx, folder, [root / f"JPEGImages/{name}.jpg" for name in names], "--best", "evaluate.shown=0.4"
    )
    sheets.save(sheets.sheet([[Image.open(seen / one["picture"]) for one in told]]), predictions, 2 / 3)


def pictures(name: str) -> tuple[str, str]:
    """The files of a run's precision over recall, and of its predictions."""
    return f"bccd_{name}_precision_recall.png", f"bccd_{name}_predictions.jpg"


_HEAD = [
    "| network | steps | seconds | peak MB per rank | best step | AP50 on test | AP | AP75 | {classes} |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | {lines} |",
]


def markdown(found: Mapping[str, Mapping[str, Any]], curves: str) -> list[str]:
    """The page."""
    from benchmarks.results import made_by

    classes = list(next(iter(found.values()))["classes"])
    rows = []
    for name, figures in found.items():
        columns = [name, figures["steps"], f"{figures['seconds']:.0f}", figures["peak_mb"], figures["best_step"]]
        columns += [f"{figures['test'][key]:.3f}" for key in ("ap50", "ap", "ap75")]
        columns += [f"{figures['classes'][label]:.3f}" for label in classes]
        rows.append(f"| {' | '.join(map(str, columns))} |")
    seen: list[str] = []
    for name in (run for run in found if run in PICTURED):
        curve, predictions = (f"results/{picture}" for picture in pictures(file_name(name)))
        seen += ["", f"## {name}", "", f"![precision over recall]({curve})", "", f"![predictions]({predictions})"]
    return [
        "# BCCD: detectors from scratch",
        "",
        made_by("python benchmarks/bccd.py --root FOLDER", "torchvision"),
        "",
        "Photographs of blood cells, 640 x 480 pixels, boxes of three classes: 205 to train on, 87 to choose the checkpoint "
        "by, 72 to test, where each network is evaluated once. No pretrained weights. Each is a `phalanx train` of "
        "`configs/recipes/bccd_yolov8n.yaml` on 2 CPU ranks with synchronised BatchNorm; seconds are those of the whole "
        "command: start, training, evaluation, saving. Memory is the largest process's. What each has besides the recipe, its "
        "curve and its losses: `docs/results/bccd.jsonl`.",
        "",
        *(line.format(classes=" | ".join(classes), lines=" | ".join("---" for _ in classes)) for line in _HEAD),
        *rows,
        "",
        f"![AP50 on val over minutes](results/{curves})",
        "",
        "Pictures: precision over recall on test of boxes that overlap by 0.5; and what the network sees in the first images "
        "of test, with a score of at least 0.4 (photographs: BCCD, MIT licence).",
        *seen,
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given_data = parser.add_mutually_exclusive_group(required=True)
    given_data.add_argument("--root", type=Path, help="BCCD in VOC's layout")
    given_data.add_argument("--smoke", action="store_true", help="a step on a folder that is made; nothing of it is kept")
    parser.add_argument("--only", nargs="+", metavar="LABEL", choices=[run.label for run in RUNS], help="some of the runs")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/bccd", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/bccd.md")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results/bccd.jsonl")
    given = parser.parse_args(arguments)
    if given.smoke:
        with tempfile.TemporaryDirectory(prefix="bccd-") as folder:
            phalanx, here = Forks(), Path(folder)
            from benchmarks.support.small_data import bccd

            _measure([SMALL_RUN], bccd(here / "data"), here / "work", here / "page.md", here / "lines.jsonl", phalanx)
        return 0
    chosen = [run for run in RUNS if given.only is None or run.label in given.only]
    found = _measure(chosen, given.root.resolve(), given.work.resolve(), given.output, given.results, Commands())
    return 0 if all(figures["test"]["ap50"] >= LEAST for figures in found.values()) else 1


def _measure(
    runs: Sequence[Run], root: Path, work: Path, output: Path, results: Path, phalanx: Phalanx
) -> dict[str, dict[str, Any]]:
    """The runs, their lines, their curves and pictures, and their page."""
    from benchmarks.results import measure_all

    by_label = {run.label: run for run in runs}
    found = measure_all(results, list(by_label), lambda label: train(by_label[label], root, work, phalanx), "run")
    found = {run.label: found[run.label] for run in RUNS if run.label in found}
    shown = output.parent / "results"
    shown.mkdir(parents=True, exist_ok=True)
    curves = shown / "bccd.svg"
    series = {label: [(seconds / 60, value) for _, seconds, value in figures["val"]] for label, figures in found.items()}
    curves.write_text(svg(series, "AP50 on val", "minutes"))
    for folder in (work / file_name(label) for label in PICTURED):
        if folder.is_dir():
            draw(folder, root, shown, phalanx)
    output.write_text("\n".join(markdown(found, curves.name)) + "\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
