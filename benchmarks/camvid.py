"""Every network for segmentation on CamVid, from scratch, on two CPU ranks, in minutes; and what exactness costs.

    python benchmarks/camvid.py --smoke
    python benchmarks/camvid.py --root FOLDER [--only LABEL ...] [--seconds 600] [--others 240] [--long 2400]
                                [--probes 1] [--probe-steps 12] [--again SHARE] [--turns SECONDS] [--work FOLDER]
                                [--output docs/camvid.md] [--results docs/results/camvid.jsonl]

FOLDER is in the layout of data.name=masks: images/ and masks/, each with train/ and val/, and classes.txt, whose last class
may be void, which counts for nothing. Each run is a `phalanx train` of `configs/recipes/camvid_deeplabv3plus.yaml` with
another network, on 2 ranks whose BatchNorm is synchronised. A short run first tells how many steps the time allows, so that
the learning rate falls to zero in it; `--probes 3 --probe-steps 50` makes longer ones, three of each in turn. Runs of the
results file whose time was by more than a share off are made again with `--again 0.06`, in the steps that their own rate
allows. `--turns 20` makes all runs at once, each alone for 20 seconds while the others are stopped, so that a machine whose
speed drifts is equally fast for all. Besides: DeepLabv3+ with exact sums, without SyncBN exactly and fast, and by a plain loop
in one process (`camvid_by_hand.py`), in the same time each; and once in a longer time.

Prints JSON, a line a run, and writes Markdown and pictures. It resumes where it was stopped: runs whose line is in the results
file are not made again, and one that was cut short is resumed. Exit code 1 where a network has less than twice the mIoU of
predicting the most frequent class everywhere. `--smoke`: some steps on a folder of that layout that it makes, nothing of it
kept.
"""

import argparse
import itertools
import json
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks.camvid_pictures import NETWORKS_SEEN, PREDICTIONS, VOID, draw_networks, draw_predictions  # noqa: E402
from benchmarks.commands import Commands, Forks, Phalanx, file_name, lines, spent  # noqa: E402 (the root is on the path now)
from benchmarks.in_turns import Started, in_turns  # noqa: E402

RECIPE = ROOT / "configs/recipes/camvid_deeplabv3plus.yaml"
RANKS = 2
Found = Mapping[str, Any]

BY_HAND = "by hand"
EXACT, FAST, LONG, EXACT_SYNC = "exact", "fast", "longer", "exact SyncBN"
COMPARED = "deeplabv3plus"


class Network(NamedTuple):
    """A network of the registry in its smallest published variant or backbone, and the size of its images."""

    name: str
    size: str
    more: Sequence[str]
    label: str = ""


class Case(NamedTuple):
    """A run: its label, the overrides of the recipe, and how much time it has."""

    label: str
    more: Sequence[str]
    seconds: float


_HALF, _QUARTER = "[180, 240]", "[90, 120]"
_RESNET = ["model.backbone=resnet18", "model.output_stride=16"]
# VGG-16 has no BatchNorm, without which a network from scratch bears small steps only.
_VGG = ["model.backbone=vgg16", "optim.lr=1e-4"]
_WITH_BATCH_NORM = ["model.backbone=null", "model.options={batch_norm: true}"]
NETWORKS = [
    Network("deeplabv3plus", _HALF, _RESNET),
    Network("deeplabv3", _HALF, _RESNET),
    Network("deeplabv2", _HALF, _RESNET),
    Network("deeplabv1", _QUARTER, _VGG),
    Network("pspnet", _HALF, _RESNET),
    Network("fcn", _HALF, _RESNET),
    Network("fcn32s", _QUARTER, _VGG),
    Network("fcn16s", _QUARTER, _VGG),
    Network("fcn8s", _QUARTER, _VGG),
    Network("segnet", _QUARTER, ["model.backbone=vgg16_bn"]),
    Network("unet", _HALF, ["model.backbone=resnet18"], "unet on a backbone"),
    Network("unet", _QUARTER, _WITH_BATCH_NORM),
    Network("unetpp", _QUARTER, _WITH_BATCH_NORM),
    Network("attention_unet", _QUARTER, ["model.backbone=null"]),
    Network("upernet", _HALF, ["model.backbone=resnet18"]),
    Network("semantic_fpn", _HALF, ["model.backbone=resnet18"]),
    Network("segformer_head", _HALF, ["model.backbone=resnet18"]),
]
# Under torchvision's names, the networks `fcn` and `deeplabv3`.
SAME = {"fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101"}


def label(network: Network) -> str:
    return network.label or network.name


def cases(seconds: float, others: float, longer: float) -> list[Case]:
    """Every run: the networks; DeepLabv3+ with exact sums, without SyncBN, by hand, and longer."""
    found = [Case(label(n), _overrides(n), seconds if label(n) == COMPARED else others) for n in NETWORKS]
    compared = _overrides(next(n for n in NETWORKS if label(n) == COMPARED))
    found += [
        Case(f"{COMPARED}, {FAST}", [*compared, "dist.sync_bn=off", "dist.reduce=fast"], seconds),
        Case(f"{COMPARED}, {EXACT}", [*compared, "dist.sync_bn=off", "dist.reduce=exact"], seconds),
        Case(f"{COMPARED}, {EXACT_SYNC}", [*compared, "dist.reduce=exact"], seconds),
        Case(f"{COMPARED}, {BY_HAND}", compared, seconds),
        Case(f"{COMPARED}, {LONG}", compared, longer),
    ]
    return found


def small_cases() -> list[Case]:
    """For `--smoke`: one network, by Phalanx and by hand, on images of 32 x 48 pixels, as long as the fewest steps take."""
    narrow = ["model.backbone=null", "model.options={batch_norm: true, width: 4}"]
    small = [*_overrides(Network("unet", "[32, 48]", narrow)), "data.workers=0"]
    return [Case("unet", small, 0), Case(f"unet, {BY_HAND}", small, 0.5)]


def _overrides(network: Network) -> list[str]:
    return [f"model.name={network.name}", f"data.image_size={network.size}", *network.more]


def prepare(root: Path, work: Path) -> Path:
    """A folder with links to the images and masks, and with the names of the classes but for void."""
    folder = work / "camvid"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("images", "masks"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to((root / name).resolve(), target_is_directory=True)
    names = (root / "classes.txt").read_text().split()
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names if name != VOID))
    return folder


def majority(folder: Path, changes: Sequence[str] = ()) -> tuple[str, float]:
    """The most frequent class of the training images, and the mIoU of finding it everywhere in the others.

    Its IoU is its share of the pixels; that of every other class that is there is zero.
    """
    from phalanx.configs.load import load
    from phalanx.data.open import open_split

    config = load([str(RECIPE)], [f"data.root={folder}", *changes])
    training, validation = (open_split(config.data, split, config.seed) for split in ("train", "val"))
    frequent = max(enumerate(training.class_counts()), key=lambda pair: pair[1])[0]  # type: ignore[attr-defined]
    counts = validation.class_counts()  # type: ignore[attr-defined]
    return training.classes[frequent], counts[frequent] / sum(counts) / sum(count > 0 for count in counts)


class Bench:
    """Makes the runs in a folder.

    Args:
        folder: the data.
        work: of the runs.
        probe_steps: of the short run before each.
    """

    def __init__(self, folder: Path, work: Path, phalanx: Phalanx, probe_steps: int = 12):
        self.folder, self.work, self._phalanx, self._probe_steps = folder, work, phalanx, probe_steps

    def steps_for(self, wanted: Sequence[Case], rounds: int) -> dict[str, int]:
        """How many steps of each case fit into its time, from short runs of all cases in turn, some rounds of them.

        Start, evaluation and saving take what they take there. In turn, so that an hour in which the machine is slower is so
        for all of them.
        """
        probes: dict[str, list[tuple[float, float]]] = {case.label: [] for case in wanted}
        for _ in range(rounds):
            for case in wanted:
                probes[case.label].append(self._probe(case))
        medians = {name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in probes.items()}
        return {
            case.label: max(1, int((case.seconds - medians[case.label][1]) / medians[case.label][0] * _MARGIN))
            for case in wanted
        }

    def _probe(self, case: Case) -> tuple[float, float]:
        """Seconds of a step, and of all besides, in a short run."""
        name = f"{file_name(case.label)}-probe"
        run = self.work / name
        shutil.rmtree(run, ignore_errors=True)
        took, _ = self._train(case, name, self._probe_steps, ["train.log_every=1"])
        # The first steps warm up; the last line waits for the evaluation.
        times = [line["time"] for line in lines(run / "metrics.jsonl")][2:-1]
        a_step = statistics.median(after - before for before, after in itertools.pairwise(times))
        shutil.rmtree(run)
        return a_step, took - self._probe_steps * a_step

    def train(self, case: Case, steps: int) -> Found:
        """The run, from its beginning or from where it was stopped: steps, seconds, mIoU, peak memory of a rank."""
        run = self.work / file_name(case.label)
        before = spent(run)
        took, peak = self._train(case, run.name, steps, _saves(steps))
        return self._found(case, steps, before, took, peak)

    def _found(self, case: Case, steps: int, before: float, took: float, peak: int) -> Found:
        run = self.work / file_name(case.label)
        last = lines(run / "metrics.jsonl")[-1]
        assert last["step"] == steps, f"{run} has ended at step {last['step']}"
        return {
            "steps": steps,
            "miou": last["val/miou"],
            "seconds": round(before + took, 1),
            "peak_mb": peak,
            "resumed": before > 0,
            "overrides": list(case.more),
        }

    def by_hand(self, case: Case) -> Found:
        """The plain loop, in a process with as many threads as there are ranks."""
        arguments = self._arguments_by_hand(case)
        _, peak = self._phalanx.python("camvid_by_hand", arguments, threads=RANKS)
        return self._found_by_hand(case, None, peak)

    def _arguments_by_hand(self, case: Case) -> list[str]:
        from phalanx.configs.load import load

        config = load([str(RECIPE)], [*case.more, f"data.root={self.folder}", "name=by-hand"])
        given = self.work / "by_hand.json"
        given.write_text(json.dumps(config.model_dump(mode="json")))
        return [str(given), str(case.seconds), str(self.work / _BY_HAND_RESULT)]

    def _found_by_hand(self, case: Case, seconds: float | None, peak: int) -> Found:
        found: dict[str, Any] = json.loads((self.work / _BY_HAND_RESULT).read_text())
        took = round(found["seconds"] if seconds is None else seconds, 1)
        return found | {"seconds": took, "peak_mb": peak, "resumed": False, "overrides": list(case.more)}

    def in_turns(self, wanted: Sequence[Case], planned: Mapping[str, int], turn_s: float) -> dict[str, Found]:
        """All of these runs, from their beginnings, each alone for some seconds while the others are stopped."""
        commands, started = Commands(), dict[str, Started]()
        for case in wanted:
            if case.label.endswith(BY_HAND):
                started[case.label] = commands.of_python("camvid_by_hand", self._arguments_by_hand(case), RANKS)
                continue
            name = file_name(case.label)
            shutil.rmtree(self.work / name, ignore_errors=True)
            arguments = self._arguments(case, name, planned[case.label], _saves(planned[case.label]))
            started[case.label] = commands.of_training(arguments, RANKS)
        found: dict[str, Found] = {}
        measured = in_turns(started, turn_s, ROOT)
        for case in wanted:
            took, peak = measured[case.label]
            if case.label.endswith(BY_HAND):
                found[case.label] = self._found_by_hand(case, took, peak)
            else:
                found[case.label] = self._found(case, planned[case.label], 0.0, took, peak)
        return found

    def _train(self, case: Case, name: str, steps: int, more: Sequence[str]) -> tuple[float, int]:
        return self._phalanx.train(self._arguments(case, name, steps, more), RANKS)

    def _arguments(self, case: Case, name: str, steps: int, more: Sequence[str]) -> list[str]:
        arguments = [str(RECIPE), str(ROOT / "configs/cluster/local.yaml"), *case.more, *more, f"data.root={self.folder}"]
        return [*arguments, f"name={name}", f"runs={self.work}", f"train.steps={steps}"]


def _saves(steps: int) -> list[str]:
    return [f"checkpoint.every_steps={max(1, steps // 4)}", "checkpoint.every_minutes=null", "checkpoint.keep=1"]


_BY_HAND_RESULT = "by_hand_result.json"


_MARGIN = 0.97  # the time is a limit


def steps_by_rate(found: Found, seconds: float, tolerance: float) -> int | None:
    """How many steps a run's own rate allows in the time; None if its time was within a share of that."""
    if abs(found["seconds"] - seconds) <= tolerance * seconds:
        return None
    return max(1, round(found["steps"] * seconds / found["seconds"]))


def _run(
    results: Path, bench: Bench, wanted: Sequence[Case], rounds: int, tolerance: float, turn_s: float | None
) -> dict[str, Found]:
    from benchmarks.results import commit
    from phalanx.dist.storage.json_lines import JsonLines

    known, file = lines(results), JsonLines(results)
    found = {line["case"]: line["found"] for line in known if "found" in line}
    planned = {line["case"]: line["steps"] for line in known if "steps" in line}

    def tell(line: dict[str, Any]) -> None:
        line["commit"] = commit()
        file.append(line)
        print(json.dumps(line), flush=True)

    try:
        for case in wanted:
            steps = steps_by_rate(found[case.label], case.seconds, tolerance) if case.label in found else None
            if steps is not None and not case.label.endswith(BY_HAND):
                del found[case.label]
                shutil.rmtree(bench.work / file_name(case.label), ignore_errors=True)
                planned[case.label] = steps
                tell({"case": case.label, "steps": steps})
        wanted = [case for case in wanted if case.label not in found]
        probed = [case for case in wanted if case.label not in planned and not case.label.endswith(BY_HAND)]
        for case_label, steps in bench.steps_for(probed, rounds).items():
            planned[case_label] = steps
            tell({"case": case_label, "steps": steps})
        if turn_s is not None:
            for name, figures in bench.in_turns(wanted, planned, turn_s).items():
                found[name] = figures
                tell({"case": name, "found": figures})
            wanted = []
        for case in wanted:
            if case.label.endswith(BY_HAND):
                found[case.label] = bench.by_hand(case)
            else:
                found[case.label] = bench.train(case, planned[case.label])
            tell({"case": case.label, "found": found[case.label]})
    finally:
        file.close()
    return found


def _row(name: str, figures: Found, base: float) -> str:
    size = next((each.partition("=")[2] for each in figures["overrides"] if each.startswith("data.image_size=")), "")
    variant = ", ".join(each.removeprefix("model.") for each in figures["overrides"] if _tells(each))
    columns = [name, variant or "-", size.strip("[]").replace(", ", " × "), figures["steps"], f"{figures['seconds']:.0f}"]
    columns += [figures["peak_mb"], f"{figures['miou']:.3f}", f"{figures['miou'] / base:.1f}"]
    return f"| {' | '.join(map(str, columns))} |"


def _tells(override: str) -> bool:
    """Whether it tells which variant of the network it is."""
    key, _, value = override.partition("=")
    return key.startswith("model.") and key != "model.name" and value != "null"


_HEAD = [
    "| run | variant | pixels | steps | seconds | peak MB per rank | mIoU | × majority |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
]


def markdown(found: Mapping[str, Found], frequent: str, base: float) -> list[str]:
    """The page."""
    from benchmarks.results import made_by

    networks = [name for name in found if "," not in name]
    good = sum(found[name]["miou"] >= 2 * base for name in networks)
    compared = {
        f"{COMPARED}, {BY_HAND}": "plain loop, one process",
        COMPARED: "2 ranks, SyncBN",
        f"{COMPARED}, {EXACT_SYNC}": "2 ranks, SyncBN, `dist.reduce=exact`",
        f"{COMPARED}, {FAST}": "2 ranks, `dist.reduce=fast`",
        f"{COMPARED}, {EXACT}": "2 ranks, `dist.reduce=exact`",
    }
    page = [
        "# CamVid: every network for segmentation, from scratch",
        "",
        made_by("python benchmarks/camvid.py --root FOLDER", "torchvision"),
        "",
        f"**{good} of {len(networks)} networks have at least twice the mIoU of the majority class**, {base:.3f}: `{frequent}`, "
        "the most frequent class of the training images, everywhere. 120 images to train on, 40 to validate, 11 classes, void "
        "counts for nothing; mIoU over the 11 classes at the masks' own size, 360 × 480. No pretrained weights. Each is a "
        "`phalanx train` on 2 CPU ranks with synchronised BatchNorm, of as many steps as the time allows, by short runs "
        "before. Seconds are those of the whole command: start, training, evaluation, saving. Memory is the largest process's.",
        "",
        *_HEAD,
        *(_row(name, found[name], base) for name in networks),
        "",
        "## What exactness costs",
        "",
        "The same network, data and optimizer, in about the same time. `exact` gives the same bits on any number of ranks. "
        "Without "
        "SyncBN, BatchNorm sees a micro-batch of 4. With it, statistics are exchanged in every layer, which leaves time for "
        "fewer steps. One run each.",
        "",
        *_HEAD,
        *(_row(text, found[name], base) for name, text in compared.items() if name in found),
    ]
    if (long := f"{COMPARED}, {LONG}") in found:
        page += ["", "## More time", "", *_HEAD, _row(COMPARED, found[long], base)]
    page += [
        "",
        "## What they see",
        "",
        f"DeepLabv3+ in images of val that it has not learnt from{' (the longer run)' if long in found else ''}: photograph, "
        "truth, prediction.",
        "",
        f"![photographs, truth and predictions](results/{PREDICTIONS})",
        "",
        "One of them as every network sees it.",
        "",
        f"![the same image by every network](results/{NETWORKS_SEEN})",
    ]
    return page


def _chosen(every: Sequence[Case], labels: Sequence[str] | None) -> Iterator[Case]:
    for wanted in labels or []:
        if wanted not in [case.label for case in every]:
            raise SystemExit(f"--only {wanted!r}: there are {', '.join(repr(case.label) for case in every)}")
    yield from (case for case in every if labels is None or case.label in labels)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given_data = parser.add_mutually_exclusive_group(required=True)
    given_data.add_argument("--root", type=Path, help="CamVid in the layout of data.name=masks")
    given_data.add_argument("--smoke", action="store_true", help="some steps on a folder that is made; nothing of it is kept")
    parser.add_argument("--only", nargs="+", metavar="LABEL", help="some of the runs")
    parser.add_argument("--seconds", type=float, default=600, help="time of a run of DeepLabv3+")
    parser.add_argument("--others", type=float, default=240, help="time of another network")
    parser.add_argument("--long", type=float, default=2400, help="time of the longer run")
    parser.add_argument("--probes", type=int, default=1, help="short runs of each, in turn, before the first")
    parser.add_argument("--probe-steps", type=int, default=12, help="steps of a short run")
    parser.add_argument("--again", type=float, default=math.inf, metavar="SHARE", help="make those again that were more off")
    parser.add_argument("--turns", type=float, metavar="SECONDS", help="make all at once, each alone for so many seconds")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/camvid", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/camvid.md")
    parser.add_argument("--results", type=Path, default=ROOT / "docs/results/camvid.jsonl")
    given = parser.parse_args(arguments)
    if given.smoke:
        with tempfile.TemporaryDirectory(prefix="camvid-") as folder:
            phalanx, here = Forks(), Path(folder)
            from benchmarks.support.small_data import camvid

            work = here / "work"
            bench = Bench(prepare(camvid(here / "data"), work), work, phalanx, probe_steps=5)
            _measure(bench, small_cases(), 1, math.inf, None, here / "page.md", here / "lines.jsonl", phalanx)
        return 0
    work, started = given.work.resolve(), Commands()
    chosen = list(_chosen(cases(given.seconds, given.others, given.long), given.only))
    bench = Bench(prepare(given.root, work), work, started, given.probe_steps)
    found, base = _measure(bench, chosen, given.probes, given.again, given.turns, given.output, given.results, started)
    return 0 if all(figures["miou"] >= 2 * base for figures in found.values()) else 1


def _measure(
    bench: Bench,
    chosen: Sequence[Case],
    probes: int,
    tolerance: float,
    turn_s: float | None,
    output: Path,
    results: Path,
    phalanx: Phalanx,
) -> tuple[dict[str, Found], float]:
    """The runs, their lines, their pictures and their page; the figures, and the mIoU of the most frequent class."""
    folder, work = bench.folder, bench.work
    frequent, base = majority(folder)
    found = _run(results, bench, chosen, probes, tolerance, turn_s)
    shown = output.parent / "results"
    shown.mkdir(parents=True, exist_ok=True)
    # Pictures of runs whose folders are elsewhere stay as they are.
    best = next(run for run in (f"{COMPARED}, {LONG}", COMPARED, *found) if run in found)
    if (work / file_name(best)).is_dir():
        draw_predictions(phalanx, best, folder, work, shown)
    networks = [label(network) for network in NETWORKS if (work / file_name(label(network))).is_dir()]
    if networks:
        draw_networks(phalanx, networks, folder, work, shown)
    output.write_text("\n".join(markdown(found, frequent, base)) + "\n")
    return found, base


if __name__ == "__main__":
    sys.exit(main())
