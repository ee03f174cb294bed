"""A whole evaluation of detections, on any number of ranks, is what pycocotools makes of the same detections."""

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.support.rank_pool import Pool
from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import RunConfig
from phalanx.data.dataset_info import DatasetView
from phalanx.data.open import open_split
from phalanx.dist.comm.process_group import World
from phalanx.models.detection.paste import paste
from phalanx.train.evaluation.evaluate import measure
from phalanx.train.evaluation.evaluate_run import _draw
from phalanx.train.evaluation.results_file import ResultsFile
from phalanx.train.setup.build import build_distributed, build_local
from phalanx.train.tasks import DataInfo
from phalanx.train.tasks.detection import Detection, Instances
from tests.support.running import DIGITS
from tests.train import detecting
from tests.train.detecting import KEYS, boxes_of, reference

IMAGES, SIDE, SEEN, CLASSES = 11, 64, 128, 8


def guessed(image: Tensor) -> dict[str, Tensor]:
    """Detections in an image as the network sees it: drawn by what is in it, so that they are the same on any rank."""
    random = numpy.random.default_rng(int(image.double().abs().sum() * 1000))
    corner, sides = random.integers(0, 10, (60, 2)) * 8, random.integers(3, 7, (60, 2)) * 8
    scores = numpy.sort(random.integers(1, 20, 60) / 20)[::-1].copy()
    masks = torch.ones(60, 28, 28)
    masks[::2, :9, :9] = 0
    return {
        "boxes": boxes_of(numpy.concatenate([corner, corner + sides], axis=1)),
        "scores": torch.from_numpy(scores).float(),
        "labels": torch.from_numpy(random.integers(0, CLASSES, 60)),
        "masks": masks,
    }


class Guess(nn.Module):
    """A detector that keeps what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, inference: Any) -> list[dict[str, Tensor]]:
        self.seen += list(images.cpu())
        return [guessed(image) for image in images]


def configured(*settings: str) -> RunConfig:
    given = ["task.name=instance", "data.name=shapes", f"data.image_size={SEEN}", "data.workers=0", "data.augment.shift=0"]
    given += [
        f"data.options={{target: boxes, train: 4, val: {IMAGES}}}",
        "model.name=mask_rcnn",
        "model.backbone=./resnet18.py:Backbone",
        "model.options.hidden=64",  # it is not asked: a guess stands in its place
        "model.options.mask_channels=[32]",
    ]
    return load(
        [DIGITS],
        [*given, "train.global_batch=8", "train.micro_batch=2", "evaluate.voc_ap=true", "evaluate.fitness=true", *settings],
    )


Evaluated = tuple[dict[str, float], dict[str, Any], list[Tensor]]


def evaluated(world: World, path: str) -> Evaluated:
    """Metrics, details, and the images that this rank has seen; writes COCO's results, as `phalanx evaluate --results` does."""
    config = configured()
    parts, guess = build_distributed(config, build_local(config), world), Guess()
    assert isinstance(parts.task, Detection)
    with ResultsFile(world, Path(path)) as results:
        parts.task.give_results(results.add, Numbered(parts.training))
        sums = measure(parts.engine, parts.task, parts.evaluation, lambda _: guess)
    return parts.task.metrics(sums), parts.task.details(sums), guess.seen


class Numbered(DatasetView):
    """A dataset whose images and classes have ids of their own."""

    @property
    def category_ids(self) -> list[int]:
        return list(range(1, CLASSES + 1))

    def image_id(self, index: int) -> int:
        return 100 + index


@pytest.fixture(scope="module")
def validation(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, list[Evaluated]], Path]:
    """What 1, 2 and 4 ranks found, and the folder of the results that they wrote."""
    folder = tmp_path_factory.mktemp("results")
    return {world: pool.run(world, evaluated, str(folder / f"{world}.json")) for world in (1, 2, 4)}, folder


def test_a_validation_gives_pycocotools_figures_and_the_same_bits_on_1_2_and_4_ranks(
    validation: tuple[dict[int, list[Evaluated]], Path],
) -> None:
    found_on, _ = validation
    ((metrics, details, seen),) = found_on[1]
    stored = open_split(configured().data, "val")
    cases = []
    for number, image in enumerate(seen):
        truth: dict[str, Any] = dict(stored[number])
        found = guessed(image)
        boxes = found["boxes"] / (SEEN / SIDE)
        prediction = found | {"boxes": boxes, "masks": paste(found["masks"], boxes, (SIDE, SIDE))}
        crowd = torch.zeros(len(truth["labels"]), dtype=torch.bool)
        cases.append((number, prediction, truth | {"crowd": crowd, "area": truth["masks"].flatten(1).sum(1)}))
    assert len(cases) == IMAGES
    for kind, prefix in ("boxes", ""), ("masks", "mask_"):
        wanted = reference(cases, CLASSES, kind, SIDE).stats  # type: ignore[arg-type]
        assert numpy.abs(numpy.array([metrics[prefix + name] for name in KEYS]) - wanted).max() < 1e-9
        assert 0 < metrics[f"{prefix}ap50"] < 1
    assert 0 < metrics["voc_ap"] < 1 and 0 < metrics["voc_ap_11_points"] < 1
    fitness = sum(0.1 * metrics[f"{prefix}ap50"] + 0.9 * metrics[f"{prefix}ap"] for prefix in ("", "mask_"))
    assert metrics["fitness"] == pytest.approx(fitness)
    objects = sum(len(truth["labels"]) for _, _, truth in cases)
    assert sum(row["objects"] for row in details["per_class"]) == sum(map(sum, details["confusion"][:-1])) == objects
    for world in 2, 4:
        shared = found_on[world]
        assert [(found[0], found[1]) for found in shared] == [(metrics, details)] * world
        assert torch.equal(torch.stack([image for found in shared for image in found[2]]), torch.stack(seen))


def test_results_are_the_same_file_on_1_2_and_4_ranks_and_pycocotools_makes_the_same_figures_of_it(
    validation: tuple[dict[int, list[Evaluated]], Path],
) -> None:
    found_on, folder = validation
    assert sorted(path.name for path in folder.iterdir()) == ["1.json", "2.json", "4.json"]
    content = (folder / "1.json").read_bytes()
    assert content == (folder / "2.json").read_bytes() == (folder / "4.json").read_bytes()
    ((metrics, _, _),) = found_on[1]
    results, stored, cases = json.loads(content), open_split(configured().data, "val"), []
    for number in range(len(stored)):
        truth: dict[str, Any] = dict(stored[number])
        crowd = torch.zeros(len(truth["labels"]), dtype=torch.bool)
        cases.append((100 + number, {}, truth | {"crowd": crowd, "area": truth["masks"].flatten(1).sum(1)}))
    for kind, prefix, other in ("boxes", "", "segmentation"), ("masks", "mask_", "bbox"):
        own = [{name: value for name, value in one.items() if name != other} for one in results]
        wanted = detecting.evaluated(detecting.annotations(cases, CLASSES, SIDE), own, kind).stats  # type: ignore[arg-type]
        assert numpy.abs(numpy.array([metrics[prefix + name] for name in KEYS]) - wanted).max() < 1e-9


def test_results_that_cannot_be_written_are_refused_in_a_sentence(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"nowhere/.*No such file or directory"):
        pool.run(2, evaluated, str(tmp_path / "nowhere/results.json"))


def failing_midway(world: World, path: str) -> None:
    with ResultsFile(world, Path(path)) as results:
        results.add(world.ranks.rank, [{"score": 1.0}])
        raise ValueError("an image cannot be decoded")


def filling(world: World, path: str) -> None:
    with ResultsFile(world, Path(path)) as results:
        for number in range(world.ranks.rank, 10_000, world.ranks.world):
            results.add(number, [{"segmentation": "0" * 10_000}])


def test_nothing_is_left_of_results_that_could_not_be_finished(pool: Pool, tmp_path: Path, small_disk: Path) -> None:
    with pytest.raises(AssertionError, match="cannot be decoded"):
        pool.run(2, failing_midway, str(tmp_path / "results.json"))
    assert not list(tmp_path.glob(".results*"))
    with pytest.raises(AssertionError, match=r"results\.json.*No space left on device"):
        pool.run(2, filling, str(small_disk / "results.json"))
    assert not list(small_disk.iterdir())


# -- pictures and files


def task(kind: type[Detection] = Instances) -> Detection:
    name = "instance" if kind is Instances else "detection"
    names = tuple(f"class {number}" for number in range(CLASSES))
    return kind(configured(f"task.name={name}", "evaluate.shown=0.6"), DataInfo(names, 3, "detection"))


def batch() -> dict[str, Any]:
    images = torch.rand(2, 3, SEEN, SEEN, generator=torch.Generator().manual_seed(0))
    return {"image": images, "size": torch.tensor([[SIDE, SIDE], [SIDE, SIDE]]), "id": torch.tensor([0, 1])}


def test_what_was_measured_is_drawn_into_a_folder(tmp_path: Path) -> None:
    cases = [case for seed in (0, 1) for case in detecting.with_masks(detecting.made(seed), seed)]
    found, truth = detecting.rows(cases, "masks")
    sums = {"found_boxes": found, "true_boxes": truth, "found_masks": found, "true_masks": truth}
    table = torch.zeros(CLASSES + 1, CLASSES + 1, dtype=torch.int64)
    assert _draw(tmp_path / "pictures", task().pictures(sums | {"confusion": table})) is None
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "confusion.png",
        "mask_precision_recall.png",
        "precision_recall.png",
    ]
    (tmp_path / "file").write_text("")
    said = _draw(tmp_path / "file", task().pictures(sums | {"confusion": table}))
    assert said is not None and "file cannot be written" in said


@pytest.mark.parametrize("kind", [Detection, Instances])
def test_only_detections_of_a_good_score_are_drawn_though_all_are_reported(kind: type[Detection]) -> None:
    asked = task(kind)
    first = next(iter(asked.predict(Guess(), batch())))
    scores = [one["score"] for one in first["objects"]]
    assert len(scores) == 60 and scores == sorted(scores, reverse=True) and scores[-1] < 0.6
    image = Image.new("RGB", (SIDE, SIDE), (90, 90, 90))
    count = sum(score >= 0.6 for score in scores)
    good = {name: value[:count] for name, value in first.items()}
    assert numpy.array_equal(numpy.asarray(asked.draw(image, first)), numpy.asarray(asked.draw(image, good)))
    fewer = {name: value[: count - 20] for name, value in first.items()}
    assert not numpy.array_equal(numpy.asarray(asked.draw(image, first)), numpy.asarray(asked.draw(image, fewer)))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11's decode, by numpy 2
def test_masks_are_written_as_run_lengths_and_no_probabilities_of_pixels(tmp_path: Path) -> None:
    from pycocotools import mask as run_lengths

    asked = task()
    assert isinstance(asked, Instances)
    first = next(iter(asked.predict(Guess(), batch())))
    written = asked.write(first, tmp_path, Path("a"), False)
    assert set(written) == {"objects"} and set(written["objects"][0]) == {"label", "class", "score", "box", "segmentation"}
    decoded = numpy.stack([run_lengths.decode(one["segmentation"]) for one in written["objects"]])
    assert numpy.array_equal(decoded.astype(bool), first["masks"].numpy())
    with pytest.raises(UserError, match=r"--probabilities is for task\.name=segmentation"):
        asked.write(first, tmp_path, Path("a"), True)
