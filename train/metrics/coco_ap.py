"""COCO's average precision and recall of boxes and masks, from rows of numbers: no rank sends a mask.

The definition is that of cocodataset.org/#detection-eval (Lin et al., Microsoft COCO, arXiv:1405.0312) and, for ties, that of
its program, pycocotools: detections of equal score are in the order of their images' ids, within an image in their own order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from phalanx.train.metrics import matching
from phalanx.train.metrics.box_iou import Flags, Floats, box_areas, box_intersections, over_union
from phalanx.train.metrics.mask_iou import mask_areas, mask_intersections

OverlapKind = Literal["boxes", "masks"]
Ints = NDArray[numpy.int64]

THRESHOLDS: Floats = numpy.linspace(0.5, 0.95, 10)
RECALLS: Floats = numpy.linspace(0, 1, 101)
RANGES = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # pixels
MOST = (1, 10, 100)  # detections per class and image
NOTHING = -1.0  # COCO's value if there is nothing to find
DETECTION_COLUMNS, TRUTH_COLUMNS = 6, 2
VOC_THRESHOLD = 0.5

_FLAGS = len(RANGES) * len(THRESHOLDS)
VOC_FLAG, VOC_TRUTH_FLAG = _FLAGS, len(RANGES)  # the bits after COCO's in the row of a detection, and of an object


@dataclass(frozen=True)
class Detections:
    """Detections of many images, in columns.

    Attributes:
        image, label, score: of each detection [k].
        place: rank among the detections of its class in its image, by descending score.
        matched, excused: bits: whether it has an object, and whether it is ignored; one per range of areas and threshold,
            then one for PASCAL VOC.
    """

    image: Ints
    label: Ints
    score: Floats
    place: Ints
    matched: Ints
    excused: Ints

    @classmethod
    def of(cls, rows: Tensor) -> "Detections":
        """From rows of `matched`: in the order of images' ids, whatever their order and rank."""
        values = rows.numpy()
        values = values[numpy.argsort(values[:, 0], kind="stable")]
        image, label, score, place, matched, excused = values.T
        image, label, place, matched, excused = (
            column.astype(numpy.int64) for column in (image, label, place, matched, excused)
        )
        return cls(image, label, score, place, matched, excused)

    def of_class(self, label: int) -> "Detections":
        """Those of a class, by descending score."""
        there = numpy.flatnonzero(self.label == label)
        there = there[numpy.argsort(-self.score[there], kind="stable")]
        flags = self.matched[there], self.excused[there]
        return Detections(self.image[there], self.label[there], self.score[there], self.place[there], *flags)

    def right_and_wrong(self, first: int, count: int = 1) -> tuple[Flags, Flags]:
        """Which detections are right, and which are wrong, by `count` flags from `first` on. Shape: [count, k], both."""
        flags = numpy.arange(first, first + count)[:, None]
        matched, counts = (self.matched >> flags & 1).astype(bool), (self.excused >> flags & 1) == 0
        return matched & counts, ~matched & counts


def matched(prediction: Mapping[str, Tensor], truth: Mapping[str, Tensor], image: int, kind: OverlapKind = "boxes") -> Tensor:
    """One row per detection of an image, with the objects that it matches: see `Detections`.

    Args:
        prediction: `boxes` [k, 4], `scores` [k], `labels` [k], and for masks `masks` bool [k, H, W]; on the CPU.
        truth: `boxes` [n, 4], `labels` [n], optionally `crowd` bool [n], which excuses detections, and `area` [n], for
            the ranges; by default that of `masks` bool [n, H, W], or of the boxes.
        image: the image's id, below 2**53.

    Shape: float64 [k, 6], by descending score.
    """
    order = (-prediction["scores"].double()).argsort(stable=True)
    scores, labels = prediction["scores"][order].double().numpy(), prediction["labels"][order].numpy()
    true_labels = truth["labels"].numpy()
    same = labels[:, None] == true_labels[None]  # [k, n]
    if kind == "boxes":
        boxes, true_boxes = prediction["boxes"][order].double().numpy(), truth["boxes"].double().numpy()
        size, true_size = box_areas(boxes), box_areas(true_boxes)
        shared = box_intersections(boxes, true_boxes)
    else:
        masks, true_masks = prediction["masks"][order].numpy(), truth["masks"].numpy()
        size, true_size = mask_areas(masks), mask_areas(true_masks)
        shared = mask_intersections(masks, true_masks, same)
    crowd, outside = _crowd(truth), _outside(size)  # [n], [A, k]
    iou = numpy.where(same, over_union(shared, size, true_size, crowd), -1)
    found, excused = matching.greedy(iou, THRESHOLDS, crowd, _ignored(truth))
    excused |= ~found & outside[:, None]
    plain = numpy.where(same, over_union(shared, size, true_size), -1)
    voc_found, voc_excused = matching.first_come(plain, VOC_THRESHOLD, crowd)
    rows = numpy.empty((len(scores), DETECTION_COLUMNS))
    rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] = image, labels, scores, _places(labels)
    rows[:, 4], rows[:, 5] = _packed(found, voc_found), _packed(excused, voc_excused)
    return torch.from_numpy(rows)


def truths(truth: Mapping[str, Tensor]) -> Tensor:
    """One row per object of an image: its class, and bits: in which ranges of areas it counts, and whether for PASCAL VOC.

    Args:
        truth: as for `matched`.

    Shape: float64 [n, 2].
    """
    counts = numpy.concatenate([~_ignored(truth), ~_crowd(truth)[None]])  # [A + 1, n]
    rows = numpy.empty((counts.shape[1], TRUTH_COLUMNS))
    rows[:, 0], rows[:, 1] = truth["labels"].numpy(), _bits(counts)
    return torch.from_numpy(rows)


def objects(truth_rows: Tensor, classes: int, flag: int = 0) -> list[int]:
    """The number of objects per class that count by a flag: a range of areas, or `VOC_TRUTH_FLAG`."""
    labels, flags = truth_rows.numpy().astype(numpy.int64).T
    return numpy.bincount(labels[flags >> flag & 1 == 1], minlength=classes)[:classes].tolist()


def _crowd(truth: Mapping[str, Tensor]) -> Flags:
    crowd = truth.get("crowd")
    return numpy.zeros(len(truth["labels"]), bool) if crowd is None else crowd.bool().numpy()


def _ignored(truth: Mapping[str, Tensor]) -> Flags:
    """Which objects are ignored in each range of areas: crowds, and those of another size. Shape: [A, n]."""
    if "area" in truth:
        area: Floats = truth["area"].double().numpy()
    elif "masks" in truth:
        area = mask_areas(truth["masks"].numpy())
    else:
        area = box_areas(truth["boxes"].double().numpy())
    return _outside(area) | _crowd(truth)


def _outside(area: Floats) -> Flags:
    """Whether an area is outside of each range, which includes both ends. Shape: [n] to [A, n]."""
    return numpy.stack([(area < low) | (area > high) for low, high in RANGES.values()])


def _places(labels: Ints) -> Ints:
    """The rank of each among those of its class."""
    places = numpy.zeros(len(labels), numpy.int64)
    for label in numpy.unique(labels):
        there = labels == label
        places[there] = numpy.arange(numpy.count_nonzero(there))
    return places


def _packed(flags: Flags, last: Flags) -> Floats:
    """Flags [A, T, k] and [k] as bits of integers [k]."""
    return _bits(numpy.concatenate([flags.reshape(_FLAGS, -1), last[None]]))


def _bits(flags: Flags) -> Floats:
    """Flags [b, k] as integers [k], in float64, which holds 53 bits."""
    values: Floats = 2.0 ** numpy.arange(len(flags), dtype=numpy.float64)
    return numpy.asarray(values @ flags)


@dataclass(frozen=True)
class Curves:
    """The values that COCO's metrics average. -1 if a class has no objects in a range.

    Attributes:
        precision: [A, T, R, K]: range of areas, IoU threshold, recall (`RECALLS`), class; 100 detections per image.
        recall: [A, T, M, K], with at most 1, 10 and 100 detections per class and image.
    """

    precision: Floats
    recall: Floats


def curves(rows: Tensor, truth_rows: Tensor, classes: int) -> Curves:
    """Precision over recall of every class.

    Args:
        rows: from `matched`, of all images in any order: [k, 6].
        truth_rows: from `truths` [n, 2].
    """
    ranges, thresholds = len(RANGES), len(THRESHOLDS)
    precision = numpy.full((ranges, thresholds, len(RECALLS), classes), NOTHING)
    recall = numpy.full((ranges, thresholds, len(MOST), classes), NOTHING)
    sorted_rows = Detections.of(rows)
    counts = [objects(truth_rows, classes, flag) for flag in range(ranges)]
    for label in range(classes):
        own = sorted_rows.of_class(label)
        few = [own.place < most for most in MOST]
        for range_number in range(ranges):
            total = counts[range_number][label]
            if not total:
                continue
            right, wrong = own.right_and_wrong(range_number * thresholds, thresholds)  # [T, k]
            for number, chosen in enumerate(few):
                recall[range_number, :, number, label] = (right & chosen).sum(axis=1) / total
            seen = few[-1]
            for level in range(thresholds):
                precision[range_number, level, :, label] = _interpolated(right[level, seen], wrong[level, seen], total)
    return Curves(precision, recall)


def _interpolated(right: Flags, wrong: Flags, total: int) -> Floats:
    """The best precision at each of `RECALLS` or beyond it; 0 at those not reached. Shape: [k] both, to [R]."""
    hits, misses = numpy.cumsum(right, dtype=numpy.float64), numpy.cumsum(wrong, dtype=numpy.float64)
    precision = hits / (hits + misses + numpy.spacing(1))
    best = numpy.maximum.accumulate(precision[::-1])[::-1]
    reached = numpy.searchsorted(hits / total, RECALLS, side="left")
    return numpy.append(best, 0.0)[reached]


def summary(rows: Tensor, truth_rows: Tensor, classes: int, prefix: str = "") -> dict[str, float]:
    """COCO's twelve metrics, means over the classes that have objects: `ap`, `ap50`, ...; -1 if none has.

    Args:
        prefix: of the metrics' names, such as `mask_`.
    """
    found = curves(rows, truth_rows, classes)
    by_size = [(number, name) for number, name in enumerate(RANGES) if number]
    figures = {
        "ap": _mean(found.precision[0]),
        "ap50": _mean(found.precision[0, 0]),
        "ap75": _mean(found.precision[0, 5]),
        **{f"ap_{name}": _mean(found.precision[number]) for number, name in by_size},
        **{f"ar{most}": _mean(found.recall[0, :, number]) for number, most in enumerate(MOST)},
        **{f"ar_{name}": _mean(found.recall[number, :, -1]) for number, name in by_size},
    }
    return {f"{prefix}{name}": value for name, value in figures.items()}


def _mean(values: Floats) -> float:
    """The mean of the known values of an array whose last axis is classes."""
    known = values[values > NOTHING]
    return float(known.mean()) if known.size else NOTHING


def per_class(rows: Tensor, truth_rows: Tensor, names: Sequence[str], prefix: str = "") -> list[dict[str, Any]]:
    """One row per class: `class`, `objects`, `ap`, `ap50`, `ap75`, `ar100`; None for a class without objects."""
    found, counts = curves(rows, truth_rows, len(names)), objects(truth_rows, len(names))
    table = []
    for number, name in enumerate(names):
        precision, recall = found.precision[0, ..., number], found.recall[0, :, -1, number]
        figures = {"ap": precision, "ap50": precision[0], "ap75": precision[5], "ar100": recall}
        known = {f"{prefix}{key}": float(values.mean()) if counts[number] else None for key, values in figures.items()}
        table.append({"class": name, "objects": counts[number], **known})
    return table
