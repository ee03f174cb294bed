"""Made detections for tests: images with objects, what a detector says of them, and what pycocotools says of that."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from phalanx.train.metrics.coco_ap import OverlapKind, matched, truths

Image = dict[str, Tensor]
BY_SIZE = ("small", "medium", "large")
KEYS = ["ap", "ap50", "ap75", *(f"ap_{size}" for size in BY_SIZE), "ar1", "ar10", "ar100", *(f"ar_{size}" for size in BY_SIZE)]


def boxes_of(corners: Any) -> Tensor:
    return torch.as_tensor(corners, dtype=torch.float32).reshape(-1, 4)


def made(seed: int, classes: int = 3, images: int = 6, most: int = 6, side: int = 160) -> list[tuple[int, Image, Image]]:
    """Ids of images, predictions and truth: drawn near objects, with ties, crowds, strays, and images without either.

    Coordinates are whole numbers, so that overlaps and areas often lie exactly at a threshold.
    """
    random = numpy.random.default_rng(seed)
    ids = random.permutation(10 * images)[:images] + 1
    found = []
    for image in ids.tolist():
        count = int(random.integers(0, most + 1))
        corner, sides = random.integers(0, side // 2, (count, 2)), random.choice([4, 8, 16, 32, 32, 64, 96], (count, 2))
        boxes = numpy.concatenate([corner, corner + sides], axis=1)
        labels = random.integers(0, max(1, classes - 1), count)  # the last class is only predicted
        area = numpy.where(random.random(count) < 0.2, random.choice([1024.0, 9216.0, 500.5], count), sides.prod(axis=1))
        truth = {
            "boxes": boxes_of(boxes),
            "labels": torch.from_numpy(labels),
            "crowd": torch.from_numpy(random.random(count) < 0.2),
            "area": torch.from_numpy(area),
        }
        times = int(random.integers(0, 4))
        near = numpy.repeat(boxes, times, axis=0) + random.integers(-6, 7, (count * times, 4)) * random.integers(0, 2)
        strays = int(random.integers(0, most))
        stray = random.integers(0, side // 2, (strays, 2))
        near = numpy.concatenate([near, numpy.concatenate([stray, stray + random.integers(1, 99, (strays, 2))], axis=1)])
        near[:, 2:] = numpy.maximum(near[:, 2:], near[:, :2] + 1)
        guessed = numpy.concatenate([numpy.repeat(labels, times), random.integers(0, classes, strays)])
        wrong = random.random(len(guessed)) < 0.2
        guessed[wrong] = random.integers(0, classes, int(wrong.sum()))
        prediction = {
            "boxes": boxes_of(near),
            "scores": torch.from_numpy(random.integers(0, 12, len(near)) / 12).float(),  # many are equal
            "labels": torch.from_numpy(guessed),
        }
        found.append((image, prediction, truth))
    return found


def with_masks(cases: list[tuple[int, Image, Image]], seed: int, side: int = 160) -> list[tuple[int, Image, Image]]:
    """The same with masks: a part of each box, so that overlaps of masks are not those of boxes."""
    random = numpy.random.default_rng(seed)

    def filled(boxes: Tensor) -> Tensor:
        masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
        for mask, box in zip(masks, boxes.long().clamp(min=0).tolist(), strict=True):
            left, top, right, bottom = box
            mask[top : bottom - int(random.integers(0, 3)), left:right] = True
            if random.random() < 0.05:
                mask[:] = False
        return masks

    return [
        (image, prediction | {"masks": filled(prediction["boxes"])}, truth | {"masks": filled(truth["boxes"])})
        for image, prediction, truth in cases
    ]


def rows(cases: Sequence[tuple[int, Image, Image]], kind: OverlapKind = "boxes") -> tuple[Tensor, Tensor]:
    """The rows of detections and of objects, image after image."""
    found = torch.cat([matched(prediction, truth, image, kind) for image, prediction, truth in cases])
    return found, torch.cat([truths(truth) for _, _, truth in cases])


def width_and_height(boxes: Tensor) -> list[list[float]]:
    return [[left, top, right - left, bottom - top] for left, top, right, bottom in boxes.double().tolist()]


def encoded(masks: Tensor) -> list[dict[str, Any]]:
    return [run_lengths.encode(numpy.asfortranarray(mask.numpy().astype(numpy.uint8))) for mask in masks]


def opened(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def annotations(cases: Sequence[tuple[int, Image, Image]], classes: int, side: int = 160) -> COCO:
    """The truth as pycocotools opens it; of categories 1, 2, ..."""
    found: list[dict[str, Any]] = []
    for image, _, truth in cases:
        shapes = encoded(truth["masks"]) if "masks" in truth else [None] * len(truth["labels"])
        columns = zip(width_and_height(truth["boxes"]), truth["labels"].tolist(), truth["crowd"].tolist(), shapes, strict=True)
        for (box, label, crowd, shape), area in zip(columns, truth["area"].tolist(), strict=True):
            one = {"id": len(found) + 1, "image_id": image, "category_id": label + 1, "bbox": box, "iscrowd": int(crowd)}
            found.append(one | {"area": area} | ({} if shape is None else {"segmentation": shape}))
    return opened(
        {
            "images": [{"id": image, "height": side, "width": side} for image, _, _ in cases],
            "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
            "annotations": found,
        }
    )


def evaluated(truth: COCO, results: list[dict[str, Any]], kind: OverlapKind = "boxes") -> COCOeval:
    """What pycocotools makes of results; it loads none that are empty."""
    with contextlib.redirect_stdout(io.StringIO()):
        detected = truth.loadRes(results) if results else opened({**truth.dataset, "annotations": []})
        evaluation = COCOeval(truth, detected, "bbox" if kind == "boxes" else "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def reference(
    cases: Sequence[tuple[int, Image, Image]], classes: int, kind: OverlapKind = "boxes", side: int = 160
) -> COCOeval:
    """pycocotools' evaluation of made detections."""
    results: list[dict[str, Any]] = []
    for image, prediction, _ in cases:
        shapes = encoded(prediction["masks"]) if kind == "masks" else width_and_height(prediction["boxes"])
        key = "segmentation" if kind == "masks" else "bbox"
        for shape, label, score in zip(shapes, prediction["labels"].tolist(), prediction["scores"].tolist(), strict=True):
            results.append({"image_id": image, "category_id": label + 1, "score": score, key: shape})
    return evaluated(annotations(cases, classes, side), results, kind)
