"""The recipes of `shapes`, made pictures, from scratch to their end on two CPU ranks; and what they see beside the truth.

    python benchmarks/shapes.py --smoke
    python benchmarks/shapes.py [--only RECIPE ...] [--work FOLDER] [--output docs/shapes.md]
                                [--results docs/results/shapes.jsonl]

Each run is `phalanx train configs/recipes/RECIPE.yaml configs/cluster/local.yaml --nproc 2`; its last figures on the split that
it does not learn from count. Prints JSON, a line a run, and writes Markdown and pictures. It resumes where it was stopped: runs
whose line is in the results file are not made again, and one that was cut short is resumed. Exit code 1 where a figure is below
what is asked of it in `RECIPES`. `--smoke`: two steps of two of them on few small pictures, nothing of it kept.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.commands import Commands, Forks, Phalanx, lines, spent  # noqa: E402 (the root is on the path now)

RANKS = 2
SHOWN = 4  # pictures


class Recipe(NamedTuple):
    """What is measured of a recipe, and the least of it."""

    metric: str
    least: float
    network: str
    word: str


RECIPES = {
    "shapes_unet": Recipe("miou", 0.80, "U-Net", "mIoU"),
    "shapes_yolov8n": Recipe("ap50", 0.85, "YOLOv8n", "AP50 of boxes"),
    "shapes_maskrcnn": Recipe("mask_ap50", 0.80, "Mask R-CNN on a ResNet-18", "AP50 of masks"),
}


def _file(recipe: str) -> Path:
    return ROOT / f"configs/recipes/{recipe}.yaml"


# What makes seconds of minutes: `--smoke`.
TINY = ["data.options.train=8", "data.options.val=4", "train.epochs=1", "train.global_batch=4", "train.micro_batch=2"]
TINY += ["train.eval_every=null", "schedule.warmup_steps=0", "data.workers=0"]
_TINY = {
    "shapes_unet": ["data.image_size=32", "data.options.size=32", "model.options.width=4"],
    "shapes_yolov8n": ["data.image_size=64", "data.options.size=64", "data.augment.mosaic_epochs=1"],
}


def train(recipe: str, work: Path, phalanx: Phalanx, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The run, from its beginning or from where it was stopped."""
    run = work / recipe
    before = spent(run)
    arguments = [str(_file(recipe)), str(ROOT / "configs/cluster/local.yaml"), *changes, f"name={recipe}", f"runs={work}"]
    took, peak = phalanx.train(arguments, RANKS)
    told = RECIPES[recipe]
    logged = lines(run / "metrics.jsonl")
    validated = [line for line in logged if f"val/{told.metric}" in line]
    figure = validated[-1][f"val/{told.metric}"]
    return {
        "steps": logged[-1]["step"],
        "seconds": round(before + took, 1),
        "resumed": before > 0,
        "peak_mb": peak,
        "metric": told.metric,
        "figure": figure,
        "val": [[line["step"], round(line["time"] - logged[0]["time"], 1), line[f"val/{told.metric}"]] for line in validated],
        "ok": figure >= told.least,
    }


def draw(recipe: str, work: Path, shown: Path, phalanx: Phalanx, changes: Sequence[str] = ()) -> None:
    """Above the truth, below what the network sees, in the first pictures of the split that it has not learnt from."""
    from PIL import Image

    from benchmarks import sheets
    from phalanx.configs.load import load
    from phalanx.data.inspect.drawing import picture
    from phalanx.data.open import open_split

    config = load([str(_file(recipe))], list(changes))
    split = open_split(config.data, "val", config.seed)
    folder = work / f"{recipe}-pictures"
    folder.mkdir(exist_ok=True)
    samples = [split[number] for number in range(SHOWN)]
    images = [picture(sample["image"] / 255) for sample in samples]
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    seen, told = sheets.predicted(phalanx, work / recipe, [folder / f"{number}.png" for number in range(SHOWN)])
    found = [Image.open(seen / one["picture"]) for one in told]
    if config.task.name == "segmentation":
        truth = [sheets.with_true_mask(i, s["mask"], split.classes) for i, s in zip(images, samples, strict=True)]
    else:
        factor = found[0].width // images[0].width
        truth = [sheets.with_true_boxes(i, s, split.classes, factor) for i, s in zip(images, samples, strict=True)]
    sheets.save(sheets.sheet([truth, found]), shown / f"{recipe}.jpg", 1)


_HEAD = [
    "| recipe | network | steps | seconds | peak MB per rank | measured | |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]


def markdown(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The page."""
    from benchmarks.results import made_by

    rows, pictures = [], []
    for name, figures in found.items():
        told = RECIPES[name]
        columns = [f"`{name}.yaml`", told.network, figures["steps"], f"{figures['seconds']:.0f}", figures["peak_mb"], told.word]
        rows.append(f"| {' | '.join(map(str, columns))} | {figures['figure']:.3f} |")
        pictures += ["", f"## {told.network}", "", f"![truth, and what {told.network} sees](results/{name}.jpg)"]
    return [
        "# Shapes: drawn pictures, from scratch",
        "",
        made_by("python benchmarks/shapes.py", "torchvision"),
        "",
        "Pictures drawn on the fly from a seed: textured grounds, up to six shapes of eight classes that overlap, and noise. "
        "Each run is a `phalanx train` of a recipe in `configs/recipes/` on 2 CPU ranks, measured at its end on pictures that "
        "it has not learnt from. Seconds are those of the whole command: start, training, evaluation, saving. Memory is the "
        "largest process's. Curves: `docs/results/shapes.jsonl`.",
        "",
        *_HEAD,
        *rows,
        "",
        "Pictures that they have not learnt from: above the truth, below what the network sees.",
        *pictures,
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="RECIPE", choices=list(RECIPES), help="some of the runs")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/shapes", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/shapes.md")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results/shapes.jsonl")
    parser.add_argument("--smoke", action="store_true", help="two steps of two of them, in seconds; nothing of it is kept")
    given = parser.parse_args(arguments)
    if given.smoke:
        with tempfile.TemporaryDirectory(prefix="shapes-") as folder:
            places = (Path(folder, name) for name in ("work", "page.md", "lines.jsonl"))
            _measure(list(_TINY), *places, Forks(), lambda recipe: [*TINY, *_TINY[recipe]])
        return 0
    chosen = [name for name in RECIPES if given.only is None or name in given.only]
    found = _measure(chosen, given.work.resolve(), given.output, given.results, Commands(), lambda recipe: [])
    return 0 if all(figures["ok"] for figures in found.values()) else 1


def _measure(
    chosen: Sequence[str],
    work: Path,
    output: Path,
    results: Path,
    phalanx: Phalanx,
    changes: Callable[[str], Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """The runs, their lines, their pictures and their page."""
    from benchmarks.results import measure_all

    found = measure_all(results, chosen, lambda recipe: train(recipe, work, phalanx, changes(recipe)), "recipe")
    shown = output.parent / "results"
    shown.mkdir(exist_ok=True)
    for name in RECIPES:
        if (work / name).is_dir():
            draw(name, work, shown, phalanx, changes(name))
    output.write_text("\n".join(markdown(found)) + "\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
