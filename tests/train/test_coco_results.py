"""What `phalanx` writes of detections, and which classes it takes for which."""

import importlib.util
import json
from pathlib import Path

import numpy
import pytest
import torch
from pycocotools import mask as run_lengths_of_coco

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.train.metrics.coco_ap import OverlapKind, summary
from phalanx.train.metrics.coco_results import results
from phalanx.train.metrics.detection_confusion import confusion
from tests.support.running import DIGITS
from tests.train.detecting import annotations, boxes_of, evaluated, made, rows, with_masks


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11's decode, by numpy 2
@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_results_in_a_file_are_loaded_by_pycocotools_and_evaluated_to_the_same(kind: OverlapKind, tmp_path: Path) -> None:
    cases = made(21)
    if kind == "masks":
        cases = with_masks(cases, 21)
    categories = [1, 2, 3]
    found = [entry for image, prediction, _ in cases for entry in results(prediction, image, categories)]
    (tmp_path / "results.json").write_text(json.dumps(found))
    loaded = json.loads((tmp_path / "results.json").read_text())
    assert set(loaded[0]) == {"image_id", "category_id", "bbox", "score"} | ({"segmentation"} if kind == "masks" else set())
    if kind == "masks":  # with boxes beside them pycocotools would take these for the areas
        decoded = numpy.stack([run_lengths_of_coco.decode(entry["segmentation"]) for entry in loaded]).astype(bool)
        assert numpy.array_equal(decoded, torch.cat([prediction["masks"] for _, prediction, _ in cases]).numpy())
        loaded = [{name: value for name, value in entry.items() if name != "bbox"} for entry in loaded]
    wanted = evaluated(annotations(cases, 3), loaded, kind).stats
    assert numpy.abs(numpy.array(list(summary(*rows(cases, kind), 3).values())) - wanted).max() < 1e-9


def test_results_have_the_dataset_s_own_categories_and_none_of_an_image_without_detections() -> None:
    prediction = {"boxes": boxes_of([[1, 2, 4, 8]]), "scores": torch.tensor([0.5]), "labels": torch.tensor([1])}
    assert results(prediction, 42, [7, 90]) == [{"image_id": 42, "category_id": 90, "bbox": [1, 2, 3, 6], "score": 0.5}]
    nothing = {name: values[:0] for name, values in prediction.items()}
    assert results(nothing, 42, [7, 90]) == results(nothing | {"masks": torch.zeros(0, 4, 4).bool()}, 42, [7, 90]) == []


def test_masks_without_pycocotools_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pycocotools" else there(name))
    prediction = {"boxes": boxes_of([[0, 0, 1, 1]]), "scores": torch.ones(1), "labels": torch.zeros(1).long()}
    assert results(prediction, 1, [1])
    with pytest.raises(UserError, match="pip install pycocotools"):
        results(prediction | {"masks": torch.ones(1, 2, 2).bool()}, 1, [1])


# -- confusion


def test_objects_are_found_mistaken_or_missed_and_detections_without_one_are_background() -> None:
    truth = {
        "boxes": boxes_of([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 90, 30]]),
        "labels": torch.tensor([0, 0, 1, 1]),
        "crowd": torch.tensor([False, False, False, True]),
    }
    prediction = {
        "boxes": boxes_of(
            [[1, 0, 11, 10], [0, 0, 10, 9], [20, 0, 30, 9], [70, 70, 80, 80], [62, 2, 70, 9], [40, 0, 50, 10], [40, 0, 50, 3]]
        ),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.6, 0.2, 0.9]),
        "labels": torch.tensor([1, 0, 1, 2, 1, 1, 1]),
    }
    # The nearer of two has the first object, though its score is lower; the third object is too unsure, or too far.
    assert confusion(prediction, truth, 3, 0.5).tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 2, 1, 0]]
    assert confusion(prediction, truth, 3, 0.1)[1].tolist() == [0, 1, 0, 0]


def test_every_object_and_every_detection_outside_of_crowds_is_counted_once() -> None:
    for seed in range(30):
        for _, prediction, truth in made(seed):
            counted = ~truth["crowd"]
            table = confusion(prediction, truth | {"crowd": truth["crowd"] & False}, 3, 0.4)
            assert table[:3].sum(1).tolist() == torch.bincount(truth["labels"], minlength=3).tolist()
            sure = prediction["labels"][prediction["scores"] >= 0.4]
            assert table[:, :3].sum(0).tolist() == torch.bincount(sure, minlength=3).tolist()
            assert table[3, 3] == 0
            known = confusion(prediction, truth, 3, 0.4)
            assert known[:3].sum(1).tolist() == torch.bincount(truth["labels"][counted], minlength=3).tolist()


# -- keys


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["task.name=detection", "evaluate.crf=true"], "evaluate.crf is for task.name=segmentation, not detection"),
        (["task.name=instance", "evaluate.flip=true"], "evaluate.flip is for task.name=segmentation, not instance"),
        (["evaluate.voc_ap=true"], "evaluate.voc_ap is for task.name=detection or instance, not classification"),
        (["task.name=segmentation", "evaluate.score=0.1"], "evaluate.score is for task.name=detection or instance"),
        (["task.name=detection", "evaluate.nms_iou=1.5"], "evaluate.nms_iou"),
        (["task.name=detection", "evaluate.detections=0"], "evaluate.detections"),
    ],
)
def test_keys_of_other_tasks_and_impossible_values_are_refused_in_a_sentence(settings: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load([DIGITS], settings)


def test_keys_of_detection_are_taken_where_it_detects() -> None:
    keys = ["evaluate.score=0.1", "evaluate.nms_iou=0.6", "evaluate.detections=300", "evaluate.voc_ap=true", "evaluate.size=64"]
    found = load([DIGITS], ["task.name=detection", "data.augment.shift=0", *keys]).evaluate
    assert (found.score, found.nms_iou, found.detections, found.voc_ap) == (0.1, 0.6, 300, True)
