"""Evaluation meets what training has not: images, classes and splits without anything in them, and fewer images than ranks."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.support.rank_pool import Pool
from phalanx.configs.load import load
from phalanx.data.loading.loader import EvaluationLoader, Samples
from phalanx.data.open import open_split
from phalanx.data.transforms.pipeline import pipeline
from phalanx.dist.comm.process_group import World
from phalanx.train import tasks
from phalanx.train.evaluation.evaluate import measure
from phalanx.train.evaluation.results_file import ResultsFile
from phalanx.train.setup.build import build_distributed, build_local, data_info
from phalanx.train.tasks import Details, GivesResults, Illustrates
from tests.data import objects
from tests.data.pictures import masks, picture, save
from tests.support.running import DIGITS

COUNTS = {"train": [0, 0, 2, 0, 1, 0, 0, 3], "val": [0, 2, 0, 0, 1], "none": [0, 0, 0], "one": [0], "odd": [0, 1, 0]}
FORMATS: dict[str, Callable[[Path, objects.Counts], None]] = {
    "coco": objects.coco,
    "voc": objects.voc,
    "yolo": objects.yolo,
}


class Network(nn.Module):
    """Sees a cat, with a mask, in every image; or the mean of its pixels in the first class, of all pixels or of the image."""

    def __init__(self, task: str):
        super().__init__()
        self.task = task
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor, inference: Any = None) -> Any:
        if inference is None:
            logits = torch.cat([images.mean(dim=1, keepdim=True), images.new_zeros(len(images), 2, *images.shape[2:])], dim=1)
            return logits if self.task == "segmentation" else logits.mean(dim=(2, 3))
        boxes = {"boxes": torch.tensor([[2.0, 3.0, 14.0, 25.0]]), "masks": torch.ones(1, 28, 28)}
        return [boxes | {"scores": torch.tensor([0.9]), "labels": torch.zeros(1, dtype=torch.int64)} for _ in images]


def evaluated(world: World, cases: list[list[str]], results: str) -> list[tuple[str, list[str]]]:
    """Metrics and details of each case as text, in which NaN equals NaN; and, of one rank, names of pictures."""
    digits = load([DIGITS], ["train.global_batch=8", "train.micro_batch=2"])
    engine, found = build_distributed(digits, build_local(digits), world).engine, []
    for settings in cases:
        config = load([DIGITS], ["data.image_size=32", "data.val_fraction=null", *settings])
        training, dataset = open_split(config.data, "train"), open_split(config.data, "val")
        samples = Samples(dataset, pipeline(config.data, dataset, "val", evaluate=config.evaluate), 0)
        loader = EvaluationLoader(samples, len(dataset), 2, world.ranks.rank, world.ranks.world, workers=0)
        task, network = tasks.build(config, data_info(training, config)), Network(config.task.name)
        with ResultsFile(world, Path(results)) as file:
            if isinstance(task, GivesResults):
                task.give_results(file.add, dataset)
            sums = measure(engine, task, loader, lambda _, network=network: network)  # type: ignore[misc]
        assert isinstance(task, Details)
        pictures = sorted(task.pictures(sums)) if isinstance(task, Illustrates) and world.ranks.world == 1 else []
        found.append((json.dumps([task.metrics(sums), task.details(sums)]), pictures))
    return found


def everywhere(pool: Pool, cases: list[list[str]], path: Path) -> list[Any]:
    """What one rank finds, which two and four find too, to the last bit."""
    (alone,) = pool.run(1, evaluated, cases, str(path / "results.json"))
    for ranks in (2, 4):
        shared = pool.run(ranks, evaluated, cases, str(path / "results.json"))
        assert [[text for text, _ in found] for found in shared] == [[text for text, _ in alone]] * ranks
    return [[*json.loads(text), pictures] for text, pictures in alone]


def test_images_and_splits_without_objects_are_evaluated_alike_on_any_number_of_ranks(pool: Pool, tmp_path: Path) -> None:
    splits, cases = {"val": 3, "none": 0, "one": 0, "odd": 1}, []
    for name, write in FORMATS.items():
        write(tmp_path / name, COUNTS)
        for task in ("instance", "detection") if name == "coco" else ("detection",):
            common = [f"task.name={task}", f"data.name={name}", f"data.root={tmp_path / name}", "evaluate.voc_ap=true"]
            common += ["data.options.masks=true", "model.name=mask_rcnn"] if task == "instance" else ["model.name=yolov8n"]
            cases += [[*common, "data.train_split=train", f"data.val_split={split}"] for split in splits]
    found = everywhere(pool, cases, tmp_path)
    for place, (metrics, details, pictures) in enumerate(found):
        split, count = list(splits.items())[place % len(splits)]
        assert sum(row["objects"] for row in details["per_class"]) == count
        assert sum(map(sum, details["confusion"])) >= len(COUNTS[split])  # a cat is seen in each
        assert (metrics["ap50"] >= 0) == (metrics["voc_ap"] >= 0) == (count > 0)
        assert all(map(math.isfinite, metrics.values())) and "confusion" in pictures
        assert all((row["ap"] is None) == (row["objects"] == 0) for row in details["per_class"])
        if split == "odd":  # there are no dogs
            assert metrics["ap50"] == details["per_class"][0]["ap50"] > 0


def test_pixels_of_which_nothing_is_known_are_no_zero_and_classes_without_any_are_left_out(pool: Pool, tmp_path: Path) -> None:
    root = masks(tmp_path / "data")
    for split, ignored in {"none": [True, True], "half": [True, False, True], "one": [False]}.items():
        for number, nothing in enumerate(ignored):
            save(picture(number), root / "images" / split / f"{number}.png")
            mask = numpy.full((16, 20), 255 if nothing else 1, dtype=numpy.uint8)
            mask[:, :10] = 255 if nothing else 0
            save(Image.fromarray(mask), root / "masks" / split / f"{number}.png")
    common = ["task.name=segmentation", "data.name=masks", f"data.root={root}", "model.name=fcn", "data.train_split=train"]
    common += ["loss.add={dice: 1}", "evaluate.flip=true", "evaluate.window=16", "evaluate.stride=8"]
    none, half, one = everywhere(pool, [[*common, f"data.val_split={split}"] for split in ("none", "half", "one")], tmp_path)
    assert len(none[0]) == 5 and all(map(math.isnan, none[0].values()))
    for metrics, details, _ in (half, one):
        assert all(map(math.isfinite, metrics.values()))
        assert [row["pixels"] for row in details["per_class"]] == [160, 160, 0]
        assert [row["accuracy"] is None for row in details["per_class"]] == [False, False, True]
        known = [row["iou"] for row in details["per_class"] if row["iou"] is not None]
        assert metrics["miou"] == sum(known) / len(known)


def test_classes_without_validation_images_are_left_out_of_means_and_a_mean_of_nothing_is_no_zero(
    pool: Pool, tmp_path: Path
) -> None:
    images = {name: [f"{name}-{number}.png" for number in range(3)] for name in ("ant", "bee", "cow")}
    for seed, file in enumerate(file for files in images.values() for file in files):
        save(picture(seed), tmp_path / file)
    lists = {
        "train": [(file, name) for name, files in images.items() for file in files],
        "two": [("ant-0.png", "ant"), ("bee-0.png", "bee"), ("bee-1.png", "bee")],
        "one": [("cow-0.png", "cow")],
        "several": [(file, "ant;bee" if place else "cow") for place, file in enumerate(images["ant"])],
        "unlabelled": [("ant-0.png", ""), ("bee-0.png", "")],
    }
    for name, lines in lists.items():
        (tmp_path / f"{name}.csv").write_text("".join(f"{file},{label}\n" for file, label in lines))
    common = ["task.name=classification", "data.name=list", f"data.root={tmp_path}"]
    cases = [[*common, "data.train_split=train", f"data.val_split={split}"] for split in ("two", "one")]
    cases += [[*common, "loss.name=bce", "data.train_split=several", f"data.val_split={s}"] for s in ("several", "unlabelled")]
    two, one, several, unlabelled = everywhere(pool, cases, tmp_path)
    for metrics, details, _ in (two, one):
        assert all((row["top1"] is None) == (row["samples"] == 0) for row in details["per_class"])
        known = [row["top1"] for row in details["per_class"] if row["samples"]]
        assert metrics["top1_mean_class"] == pytest.approx(sum(known) / len(known))
    assert math.isfinite(several[0]["map"]) and math.isnan(unlabelled[0]["map"]) and math.isfinite(unlabelled[0]["loss"])
    assert [row["ap"] for row in unlabelled[1]["per_class"]] == [None] * 3
