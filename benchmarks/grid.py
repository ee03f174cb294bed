"""Every network under every strategy: a grid.

    python benchmarks/grid.py --smoke
    python benchmarks/grid.py [--networks resnet18 vgg11 ...] [--output docs/grid.md] [--results FILE.jsonl]

On two ranks, under DDP with synchronised BatchNorm, FSDP2 and ZeRO-2, in float32 and bf16, each network trains three steps of
eight small images (`shapes`, made on the fly; with masks for segmentation, with boxes for detection), saves and continues; both
ranks must end with the same finite weights, and a run that reads the checkpoint must make the next step to the last bit. With
DDP and `dist.reduce=exact` the weights after three steps must be the same bits on 1, 2 and 3 ranks; for segmentation and
detection with synchronised BatchNorm too. Networks for segmentation and detection must also agree in float64: two ranks of DDP
with one process, every tensor within 1e-8 of its largest element, for detection within 1e-6, for YOLO 1e-8. YOLO networks learn
from mosaics. Where objects are detected, an image of the first step has none, and in the second no image of the last rank has
any. Prints JSON, a line a cell, and writes Markdown. It resumes where it was stopped: cells whose line is in the results file
are not run again. Exit code 1 where a cell fails.
`--smoke`: two cells of a narrow network, nothing of it kept.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RECIPE = ROOT / "benchmarks/grid.yaml"
WAYS = {
    "DDP, SyncBN": ["dist.strategy=ddp", "dist.sync_bn=all"],
    "FSDP2": ["dist.strategy=fsdp"],
    "ZeRO-2": ["dist.strategy=zero2"],
}
PRECISIONS = ["fp32", "bf16"]
EXACT = "exact"
EXACT_SYNC = "exact, SyncBN"  # of networks for segmentation and detection
EXACT_RANKS = (1, 2, 3)
PARITY = "one process"
# In float64. What objects are learnt from is chosen by comparisons, and BatchNorm sees down to four values a channel there.
AGREES = {"segmentation": 1e-8, "detection": 1e-6, "instance": 1e-6}
YOLO_AGREES = 1e-8
# What a network learns besides the class of the image.
TARGETS = {"segmentation": "mask", "detection": "boxes", "instance": "boxes"}
# Of detectors: anchors of the objects' sizes, and few proposals, each of which costs as much as a small image.
OPTIONS = {"anchors": [8, 16, 32, 64, 128], "samples": 32}
# Pixels a side; 64 unless a network's own strides leave nothing of that, or its patches do not fit into it.
IMAGE_SIZES = {"inception_v3": 96, "vit_h_14": 56}
LARGE = {"vit_h_14"}  # 632 million parameters
# torchvision's names of what is here under another name already.
SAME = {"fcn_resnet50", "deeplabv3_resnet50"}
SMALL_BACKBONE = {"faster_rcnn", "fcos", "mask_rcnn", "retinanet"}  # theirs is that of torchvision's, which are here too
NARROW = ["data.image_size=32", "data.options.size=32", "model.options={batch_norm: true, width: 4}"]  # of --smoke
# Networks as users write them: what is different in each is in that file.
OWN = [f"benchmarks.support.own_networks:{name}" for name in ("ConvNet", "Transformer", "ReturnsDictionary", "UnusedHead")]
OWN += [f"benchmarks.support.own_networks:{name}" for name in ("Temperature", "Tied")]
REFUSED = {("benchmarks.support.own_networks:Temperature", "ZeRO-2")}  # by name: a parameter without dimensions
TIMM = ["timm/efficientnet_b0", "timm/mobilenetv3_small_100", "timm/regnety_004"]


class Cell(NamedTuple):
    """A network, how it is shared, and in which precision."""

    network: str
    way: str
    precision: str


def networks() -> list[str]:
    """All of the registry, some of timm's where that is installed, and some as users write them."""
    from phalanx.models import registry

    ours = [name for name in registry.names() if name not in SAME]
    return [*ours, *(TIMM if importlib.util.find_spec("timm") else []), *OWN]


def cells(chosen: Sequence[str]) -> Iterator[Cell]:
    for network in chosen:
        for way in WAYS:
            for precision in PRECISIONS if (network, way) not in REFUSED else ():
                yield Cell(network, way, precision)
        yield Cell(network, EXACT, "fp32")
        if _task(network) in TARGETS:
            yield Cell(network, EXACT_SYNC, "fp32")
            yield Cell(network, PARITY, "fp64")


def _is_yolo(network: str) -> bool:
    return network.startswith("yolo")


def _agrees(network: str) -> float:
    return YOLO_AGREES if _is_yolo(network) else AGREES[_task(network)]


def _task(network: str) -> str:
    from phalanx.models import registry

    kind = registry.get(network).kind
    if kind == "detection":
        return "instance" if registry.get(network).masks else "detection"
    return "segmentation" if kind == "segmentation" else "classification"


def config(cell: Cell, changes: Sequence[str] = ()) -> Any:
    """The run of a cell, with what is changed in it."""
    from phalanx.configs.load import load
    from phalanx.models import registry

    exact = ["dist.strategy=ddp", "dist.reduce=exact"]
    ways = WAYS | {EXACT: exact, EXACT_SYNC: [*exact, "dist.sync_bn=all"], PARITY: ["dist.strategy=ddp"]}
    task, size = _task(cell.network), f"data.image_size={IMAGE_SIZES.get(cell.network, 64)}"
    more = [f"task.name={task}", f"data.options.target={TARGETS[task]}"] if task in TARGETS else []
    own = registry.MODELS[cell.network].own if cell.network in registry.MODELS else {}
    if _is_yolo(cell.network):
        more += ["data.augment.mosaic=0.5"]
    else:
        more += [f"model.options.{key}={value}" for key, value in OPTIONS.items() if key in own]
    more += ["model.backbone=resnet18"] if cell.network in SMALL_BACKBONE else []
    return load(
        [str(RECIPE)],
        [f"model.name={cell.network}", size, f"dist.precision={cell.precision}", *ways[cell.way], *more, *changes],
    )


def measure(pool: Any, cell: Cell, changes: Sequence[str] = ()) -> dict[str, Any]:
    """What holds of a cell: `agree`, `finite`, `resumed`; or, for exact sums, `same_bits`; `ok`: all of it; `seconds`.

    In float64 also `difference`: the largest max|a - b| / max|b| of a tensor.
    """
    from benchmarks import grid_cases as ranks

    begun, run = time.monotonic(), config(cell, changes)
    try:
        if cell.way in (EXACT, EXACT_SYNC):
            reports = [pool.run(count, ranks.trained, run) for count in EXACT_RANKS]
            flat = [report for world in reports for report in world]
            found: dict[str, Any] = {
                "same_bits": len({report["bits"] for report in flat}) == 1,
                "finite": all(report["finite"] for report in flat),
            }
        elif cell.way == PARITY:
            with tempfile.TemporaryDirectory() as folder:
                for count in (1, 2):
                    pool.run(count, ranks.weights, run, Path(folder, f"{count}.safetensors"))
                difference = ranks.difference(Path(folder, "1.safetensors"), Path(folder, "2.safetensors"))
            seconds, same = round(time.monotonic() - begun, 1), difference <= _agrees(cell.network)
            return {"same_weights": same, "difference": difference, "ok": same, "seconds": seconds}
        else:
            with tempfile.TemporaryDirectory() as folder:
                each = pool.run(2, ranks.cell, run, Path(folder))
            found = {
                "agree": len({r["unbroken"]["bits"] for r in each}) == 1,
                "finite": all(r["unbroken"]["finite"] for r in each),
                "resumed": all(r["resumed"] == r["unbroken"] for r in each),
            }
    except AssertionError as error:
        return {
            "ok": False,
            "problem": str(error).strip().splitlines()[-1][-400:],
            "seconds": round(time.monotonic() - begun, 1),
        }
    return found | {"ok": all(found.values()), "seconds": round(time.monotonic() - begun, 1)}


def _run(results: Path, every: Sequence[Cell], pool: Any, changes: Sequence[str] = ()) -> dict[Cell, dict[str, Any]]:
    from benchmarks.results import measure_all

    def measured(cell: Cell) -> dict[str, Any]:
        return measure(pool, cell, changes)

    return measure_all(results, every, measured, "cell", lambda cell: cell._asdict(), lambda told: Cell(**told))


def _word(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return "-"
    if figures["ok"]:
        return "yes"
    if "problem" in figures:
        return "**fails**"
    return f"**not {', '.join(name for name, held in figures.items() if held is False and name != 'ok')}**"


def markdown(found: Mapping[Cell, Mapping[str, Any]]) -> list[str]:
    """The page."""
    from benchmarks.results import made_by

    shown = dict.fromkeys(cell.network for cell in found)
    classify = [network for network in shown if _task(network) not in TARGETS]
    masks = [network for network in shown if _task(network) == "segmentation"]
    objects = [network for network in shown if _task(network) in ("detection", "instance")]
    left = sum(cell not in found for cell in cells(networks()))

    def largest(of: Sequence[str]) -> float:
        return max((figures.get("difference", 0.0) for cell, figures in found.items() if cell.network in of), default=0.0)

    held = sum(figures["ok"] for figures in found.values())
    return [
        "# The grid: every network under every strategy",
        "",
        made_by("python benchmarks/grid.py", "torchvision", "deepspeed", "accelerate"),
        "",
        f"**{held} of {len(found)} cells hold.** On two ranks each network trains three steps of eight images of 64 x 64 "
        "pixels (96 x 96 for Inception v3, 56 x 56 for ViT-H/14) and saves; `yes` says that both ranks have the same finite "
        "weights one step later, and that a run which reads the checkpoint takes that step to the last bit. `exact` is DDP "
        "with `dist.reduce=exact`: the same bits after three steps on 1, 2 and 3 ranks; `exact, SyncBN` with "
        "`dist.sync_bn=all` too. Every single cell is in `docs/results/grid.jsonl`.",
        *([f"**{left} cells of other networks have not been run yet.**"] if left else []),
        "",
        *_table(found, classify, []),
        *(
            [
                "",
                "Networks for segmentation, with masks. `one process`: in float64 two ranks of DDP end within 1e-8 of one "
                f"process (the largest difference of a tensor, max |a - b| over max |b|, was {largest(masks):.0e}).",
                "",
                *_table(found, masks, [(EXACT_SYNC, "fp32"), (PARITY, "fp64")]),
            ]
            if masks
            else []
        ),
        *(
            [
                "",
                "Networks for detection, with boxes, and masks if the network predicts them. An image of the first step has no "
                "objects, and in the second no image of the last rank has any. Networks with proposals sample 32 per image. "
                f"{', '.join(sorted(SMALL_BACKBONE))} on a ResNet-18; YOLO networks from mosaics. `one process`: within 1e-6, "
                f"for YOLO 1e-8; at most it was {largest(objects):.0e}.",
                "",
                *_table(found, objects, [(EXACT_SYNC, "fp32"), (PARITY, "fp64")]),
            ]
            if objects
            else []
        ),
    ]


def _table(found: Mapping[Cell, Mapping[str, Any]], networks: Sequence[str], further: Sequence[tuple[str, str]]) -> list[str]:
    columns = [*((way, precision) for way in WAYS for precision in PRECISIONS), (EXACT, "fp32"), *further]
    shown = [f"{way} on 1, 2, 3" if way in (EXACT, EXACT_SYNC) else f"{way} {precision}" for way, precision in columns]
    rows = [
        f"| {network} | {' | '.join(_word(found.get(Cell(network, *column))) for column in columns)} |" for network in networks
    ]
    return [f"| network | {' | '.join(shown)} |", f"| {' | '.join(['---'] * (len(shown) + 1))} |", *rows]


def main(arguments: Sequence[str] | None = None, pool: Any = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", help="default: every network there is")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/grid.md")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results/grid.jsonl")
    parser.add_argument("--smoke", action="store_true", help="two cells, in seconds; nothing of it is kept")
    given = parser.parse_args(arguments)
    from benchmarks.support.rank_pool import pooled

    if given.smoke:
        few = [Cell("unet", "DDP, SyncBN", "bf16"), Cell("unet", PARITY, "fp64")]
        with tempfile.TemporaryDirectory(prefix="grid-") as folder, pooled(pool, 2) as ranks:
            found = _run(Path(folder) / "lines.jsonl", few, ranks, NARROW)
            (Path(folder) / "page.md").write_text("\n".join(markdown(found)) + "\n")
    else:
        chosen = given.networks or networks()
        if LARGE & set(chosen):
            # What is freed goes back to the system at once: three ranks hold twice what they need otherwise, in pieces.
            os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 << 20))
        # A large network may have to be swapped out, and what it leaves behind is missed by the next.
        with pooled(pool, 3, timeout_s=1800, renew_after=1) as ranks:
            found = _run(given.results, list(cells(chosen)), ranks)
        given.output.write_text("\n".join(markdown(found)) + "\n")
    return 0 if all(figures["ok"] for figures in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
