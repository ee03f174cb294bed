"""Average precision of boxes and masks: as pycocotools has it, and PASCAL VOC's by its definition."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy
import pytest
import torch
from torch import Tensor

from benchmarks.support.rank_pool import Pool
from phalanx.dist.comm.collectives import gather_rows
from phalanx.dist.comm.process_group import World
from phalanx.train.metrics import voc_ap
from phalanx.train.metrics.coco_ap import NOTHING, OverlapKind, curves, matched, per_class, summary, truths
from tests.train.detecting import KEYS, Image, boxes_of, made, reference, rows, with_masks

CLASSES = 3  # of made cases; the last has no objects


def assert_equal(cases: Sequence[tuple[int, Image, Image]], kind: OverlapKind, side: int = 160) -> None:
    """Every figure, and every point of every curve, is pycocotools'."""
    wanted = reference(cases, CLASSES, kind, side)
    found, truth = rows(cases, kind)
    figures = summary(found, truth, CLASSES)
    assert list(figures) == KEYS
    assert numpy.abs(numpy.array(list(figures.values())) - wanted.stats).max() < 1e-9
    points = curves(found, truth, CLASSES)
    assert numpy.abs(points.precision - wanted.eval["precision"][..., -1].transpose(3, 0, 1, 2)).max() < 1e-9
    assert numpy.abs(points.recall - wanted.eval["recall"].transpose(2, 0, 3, 1)).max() < 1e-9


@pytest.mark.parametrize("start", range(0, 180, 60))
def test_figures_of_boxes_are_pycocotools(start: int) -> None:
    for seed in range(start, start + 60):
        assert_equal(made(seed), "boxes")


@pytest.mark.parametrize("start", range(0, 40, 20))
def test_figures_of_masks_are_pycocotools(start: int) -> None:
    for seed in range(start, start + 20):
        assert_equal(with_masks(made(seed), seed), "masks")


def one(boxes: object, scores: Sequence[float], labels: Sequence[int] | None = None) -> Image:
    given = boxes_of(boxes)
    return {
        "boxes": given,
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels or [0] * len(given), dtype=torch.int64),
    }


def objects(boxes: object, labels: Sequence[int] | None = None, crowd: Sequence[bool] | None = None) -> Image:
    given = boxes_of(boxes)
    area = (given[:, 2] - given[:, 0]) * (given[:, 3] - given[:, 1])
    flags = torch.tensor(crowd or [False] * len(given), dtype=torch.bool)
    return {"boxes": given, "labels": torch.tensor(labels or [0] * len(given)), "crowd": flags, "area": area.double()}


def test_of_more_than_a_hundred_detections_of_a_class_in_an_image_the_best_hundred_count() -> None:
    random = numpy.random.default_rng(5)
    corners = random.integers(0, 60, (260, 2))
    many = one(numpy.concatenate([corners, corners + 20], axis=1), random.random(260).tolist(), [0, 1] * 130)
    corners = random.integers(0, 60, (40, 2))
    truth = objects(numpy.concatenate([corners, corners + 21], axis=1), [0, 1] * 20)
    assert_equal([(3, many, truth)], "boxes")
    found, true = rows([(3, many, truth)])
    figures = summary(found, true, 2)
    assert len(found) == 260 and figures["ar1"] < figures["ar10"] < figures["ar100"]


@pytest.mark.parametrize("side", [31, 32, 33, 95, 96, 97])
def test_an_area_at_the_border_of_two_ranges_counts_in_both(side: int) -> None:
    box = [0, 0, side, side]
    cases = [(1, one([box], [0.9]), objects([box]))]
    assert_equal(cases, "boxes")
    figures = summary(*rows(cases), 1)
    there = {name for name in ("small", "medium", "large") if figures[f"ap_{name}"] > 0}
    wanted = {31: {"small"}, 32: {"small", "medium"}, 96: {"medium", "large"}, 97: {"large"}}
    assert there == wanted.get(side, {"medium"})
    assert all(figures[f"ap_{name}"] == NOTHING for name in {"small", "medium", "large"} - there)


def test_without_annotated_areas_those_of_the_masks_count_or_of_the_boxes() -> None:
    for cases in made(3), with_masks(made(3), 3):
        bare = [(i, p, {k: v for k, v in t.items() if k != "area"}) for i, p, t in cases]
        full = [(i, p, t | {"area": _area(t)}) for i, p, t in cases]
        kinds: list[OverlapKind] = ["boxes", "masks"] if "masks" in bare[0][2] else ["boxes"]
        for kind in kinds:
            assert summary(*rows(bare, kind), CLASSES) == summary(*rows(full, kind), CLASSES)
            assert summary(*rows(bare, kind), CLASSES) != summary(*rows(cases, kind), CLASSES)


def _area(truth: Image) -> Tensor:
    if "masks" in truth:
        return truth["masks"].flatten(1).sum(1)
    return (truth["boxes"][:, 2:] - truth["boxes"][:, :2]).prod(1)


def test_where_there_is_nothing_to_find_figures_say_so() -> None:
    stray = [(1, one([[0, 0, 9, 9]], [0.5]), objects([]))]
    assert_equal(stray, "boxes")
    assert set(summary(*rows(stray), 2).values()) == {NOTHING}
    nobody = [(1, one([], []), objects([[0, 0, 9, 9]], [1]))]
    assert_equal(nobody, "boxes")
    assert summary(*rows(nobody), 2)["ap"] == summary(*rows(nobody), 2)["ar100"] == 0
    row = {"class": "a", "objects": 0, "ap": None, "ap50": None, "ap75": None, "ar100": None}
    assert per_class(*rows(nobody), ["a", "b"])[0] == row
    assert set(summary(torch.zeros(0, 6).double(), torch.zeros(0, 2).double(), 2).values()) == {NOTHING}


def test_a_row_a_class_has_the_means_of_its_own_curves() -> None:
    found, truth = rows([case for seed in range(8) for case in made(seed)])
    table, points = per_class(found, truth, ["a", "b", "c"]), curves(found, truth, CLASSES)
    assert [row["class"] for row in table] == ["a", "b", "c"] and table[2]["ap"] is None
    known, figures = table[:2], summary(found, truth, CLASSES)
    for key in "ap", "ap50", "ap75", "ar100":
        assert figures[key] == pytest.approx(sum(row[key] for row in known) / 2)
    assert known[0]["ap50"] == pytest.approx(points.precision[0, 0, :, 0].mean())
    assert known[0]["objects"] == int((truth[:, 0] == 0).sum()) - int((truth[truth[:, 0] == 0][:, 1].long() & 1 == 0).sum())
    assert [f"mask_{key}" for key in KEYS] == list(summary(found, truth, CLASSES, prefix="mask_"))


def test_equal_scores_stand_in_the_order_of_the_images_ids_wherever_their_rows_come_from() -> None:
    box, elsewhere = [0, 0, 10, 10], [50, 50, 60, 60]
    right, wrong = one([box], [0.5]), one([elsewhere], [0.5])
    first_right = [(7, right, objects([box])), (9, wrong, objects([box]))]
    first_wrong = [(7, wrong, objects([box])), (9, right, objects([box]))]
    better, worse = (summary(*rows(cases), 1)["ap50"] for cases in (first_right, first_wrong))
    assert better == pytest.approx(51 / 101) and worse == pytest.approx(0.5 * 51 / 101)
    for cases in first_right, first_wrong:
        assert summary(*rows(cases[::-1]), 1) == summary(*rows(cases), 1)
        assert_equal(cases[::-1], "boxes")


def gathered(world: World, count: int) -> tuple[Tensor, Tensor]:
    """Each rank makes the rows of its part of the images; all get all."""
    cases, rank = made(11, images=count), world.ranks
    own = cases[rank.rank * count // rank.world : (rank.rank + 1) * count // rank.world]
    found, truth = rows(own) if own else (torch.zeros(0, 6).double(), torch.zeros(0, 2).double())
    return gather_rows(world, found), gather_rows(world, truth)


def test_figures_are_the_same_bits_on_1_2_and_4_ranks(pool: Pool) -> None:
    cases = made(11, images=11)
    wanted = rows(cases)
    figures = summary(*wanted, CLASSES)
    assert 0 < figures["ap"] < 1
    for world in 2, 4:
        for found, truth in pool.run(world, gathered, 11):
            assert torch.equal(found, wanted[0]) and torch.equal(truth, wanted[1])
            assert summary(found, truth, CLASSES) == figures


# -- PASCAL VOC


def overlap(one: list[float], other: list[float]) -> Fraction:
    """Of two boxes of whole numbers."""
    sides = [max(0, int(min(one[i + 2], other[i + 2]) - max(one[i], other[i]))) for i in (0, 1)]
    area = [int((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    return Fraction(sides[0] * sides[1], sum(area) - sides[0] * sides[1])


def devkit(cases: Sequence[tuple[int, Image, Image]], label: int) -> tuple[float, float] | None:
    """Average precision by every point and by eleven, detection by detection, in fractions."""
    truth = {
        image: [b for b, own in zip(t["boxes"].tolist(), t["labels"], strict=True) if own == label] for image, _, t in cases
    }
    difficult = {image: t["crowd"][t["labels"] == label].tolist() for image, _, t in cases}
    total = sum(not flag for flags in difficult.values() for flag in flags)
    detections = [
        (score, image, box)
        for image, p, _ in sorted(cases, key=lambda case: case[0])
        for score, box, own in zip(p["scores"].tolist(), p["boxes"].tolist(), p["labels"].tolist(), strict=True)
        if own == label
    ]
    taken: set[tuple[int, int]] = set()
    curve: list[tuple[Fraction, Fraction]] = []
    right = wrong = 0
    for _, image, box in sorted(detections, key=lambda detection: -detection[0]):
        overlaps = [overlap(box, other) for other in truth[image]]
        best = max(range(len(overlaps)), key=lambda i: overlaps[i], default=-1)
        if best >= 0 and overlaps[best] >= Fraction(1, 2):
            if difficult[image][best]:
                continue
            right, wrong = right + ((image, best) not in taken), wrong + ((image, best) in taken)
            taken.add((image, best))
        else:
            wrong += 1
        if total:
            curve.append((Fraction(right, total), Fraction(right, right + wrong)))
    if not total:
        return None
    eleven = [max((p for r, p in curve if r >= Fraction(i, 10)), default=Fraction(0)) for i in range(11)]
    levels = sorted({r for r, _ in curve} | {Fraction(0)})
    steps = [(b - a) * max(p for r, p in curve if r >= b) for a, b in pairwise(levels)]
    return float(sum(steps)), float(sum(eleven) / 11)


def test_voc_s_average_precision_is_that_of_its_definition() -> None:
    known = 0
    for seed in range(80):
        cases = made(seed, images=4)
        found = voc_ap.average_precisions(*rows(cases), CLASSES)
        wanted = [devkit(cases, label) for label in range(CLASSES)]
        assert [pair is None for pair in found] == [pair is None for pair in wanted]
        for pair, one_wanted in zip(found, wanted, strict=True):
            if pair is not None:
                assert pair == pytest.approx(one_wanted, abs=1e-12)
                known += 0 < pair[0] < 1 and pair[0] != pair[1]
        there = [pair for pair in wanted if pair is not None]
        figures = voc_ap.summary(*rows(cases), CLASSES)
        assert figures["voc_ap"] == pytest.approx(sum(p[0] for p in there) / len(there))
        assert figures["voc_ap_11_points"] == pytest.approx(sum(p[1] for p in there) / len(there))
    assert known > 40


def test_a_recall_of_three_tenths_reaches_voc_s_third_point() -> None:
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(10)]
    cases = [(1, one(boxes[:3], [0.9, 0.8, 0.7]), objects(boxes))]
    ((every, eleven),) = [pair for pair in voc_ap.average_precisions(*rows(cases), 1) if pair]
    assert every == pytest.approx(0.3) and eleven == pytest.approx(4 / 11)


def test_a_second_detection_of_an_object_is_wrong_for_voc_and_a_difficult_one_counts_for_nothing() -> None:
    box, hard = [0, 0, 10, 10], [50, 0, 60, 10]
    prediction = one([box, [1, 0, 11, 10], hard, hard], [0.9, 0.8, 0.7, 0.6])
    cases = [(1, prediction, objects([box, hard], crowd=[False, True]))]
    assert voc_ap.summary(*rows(cases), 1) == {"voc_ap": 1.0, "voc_ap_11_points": 1.0}
    rows_, truth = matched(prediction, cases[0][2], 1), truths(cases[0][2])
    assert rows_[:, 5].long().bitwise_right_shift(40).tolist() == [0, 0, 1, 1]
    assert truth[:, 1].long().bitwise_right_shift(4).tolist() == [1, 0]
    assert voc_ap.summary(torch.zeros(0, 6).double(), torch.zeros(0, 2).double(), 1)["voc_ap"] == -1
