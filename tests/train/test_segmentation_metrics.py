"""Metrics of masks against other definitions of them, at the masks' own size, and by hand."""

import math
from pathlib import Path

import numpy
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, jaccard_score
from torch import Tensor

from phalanx.data.inspect.drawing import colour
from phalanx.train.metrics.boundary import TOLERANCE, boundary, boundary_f
from phalanx.train.pictures.mask_files import write_mask
from phalanx.train.pictures.overlay import with_overlay
from tests.train.segmenting import CLASSES, Given, drawn, task_of


def measured(logits: Tensor, masks: list[Tensor], *settings: str) -> tuple[dict[str, float], dict[str, object]]:
    """Metrics and details of one batch, of a network that gives these logits."""
    task = task_of(*settings)
    sums = task.measure(Given(), {"image": logits, "mask": masks})
    known = {name: value if value.shape else float(value) for name, value in sums.items()}  # type: ignore[union-attr]
    return task.metrics(known), task.details(known)


def test_metrics_of_pixels_are_scikit_learn_s() -> None:
    logits, mask = drawn(samples=2)
    logits += 4 * F.one_hot(mask.clamp(max=CLASSES - 1), CLASSES).movedim(-1, 1)
    mask[mask == 3] = 255  # a class that is not there, though predicted
    metrics, details = measured(logits, list(mask), "data.image_size=[7,9]")
    known = mask != 255
    truth, found = mask[known], logits.argmax(1)[known]
    assert metrics["pixel_accuracy"] == pytest.approx(accuracy_score(truth, found))
    assert metrics["miou"] == pytest.approx(jaccard_score(truth, found, average="macro", labels=range(CLASSES)))
    assert metrics["dice"] == pytest.approx(f1_score(truth, found, average="macro", labels=range(CLASSES)))
    assert metrics["loss"] == pytest.approx(float(F.cross_entropy(logits, mask, ignore_index=255)))
    assert details["confusion"] == confusion_matrix(truth, found, labels=range(CLASSES)).tolist()
    rows = details["per_class"]
    assert [row["class"] for row in rows] == list("abcde") and rows[3]["pixels"] == 0  # type: ignore[attr-defined,index]
    assert rows[3]["iou"] == 0 and rows[3]["accuracy"] is None  # type: ignore[index]


def test_predictions_are_brought_to_the_mask_s_own_size_from_where_its_image_lies() -> None:
    mask = torch.zeros(30, 60, dtype=torch.int64)
    mask[:, 30:] = 2
    logits = torch.zeros(1, CLASSES, 20, 20, dtype=torch.float64)
    logits[:, 4] = 9  # what is padded, above and below
    logits[:, :, 5:15] = 0
    logits[:, 0, 5:15, :10], logits[:, 2, 5:15, 10:] = 5, 5
    metrics, _ = measured(logits, [mask], "data.image_size=20", "data.fit=pad")
    assert metrics["miou"] == metrics["pixel_accuracy"] == metrics["boundary_f"] == 1.0
    stretched, _ = measured(logits, [mask], "data.image_size=20", "data.fit=stretch")
    assert stretched["pixel_accuracy"] == pytest.approx(0.5, abs=0.05)


def test_masks_of_several_sizes_count_by_their_pixels() -> None:
    logits = torch.zeros(2, CLASSES, 8, 8, dtype=torch.float64)
    logits[0, 1], logits[1, 2] = 1, 1
    large, small = torch.ones(40, 20, dtype=torch.int64), torch.zeros(10, 20, dtype=torch.int64)
    metrics, details = measured(logits, [large, small], "data.image_size=8")
    assert metrics["pixel_accuracy"] == 0.8
    assert details["confusion"][0][2] == 200 and details["confusion"][1][1] == 800  # type: ignore[index]
    assert metrics["miou"] == pytest.approx(1 / 3)  # of the classes 0, 1 and 2


def test_an_image_of_which_nothing_is_known_counts_for_nothing() -> None:
    logits, mask = drawn(samples=2)
    both, _ = measured(logits, [mask[0], torch.full_like(mask[0], 255)], "data.image_size=[7,9]")
    one, _ = measured(logits[:1], [mask[0]], "data.image_size=[7,9]")
    assert both == pytest.approx(one)
    nothing, _ = measured(logits[:1], [torch.full_like(mask[0], 255)], "data.image_size=[7,9]")
    assert nothing.keys() == {"loss", "miou", "pixel_accuracy", "dice", "boundary_f"}
    assert all(math.isnan(value) for value in nothing.values())  # a loss of 0 would be the best of all


# -- boundaries


def by_distances(target: Tensor, predicted: Tensor) -> list[float | None]:
    """The score of each class by Euclidean distance transforms of its two boundaries."""
    predicted = predicted.masked_fill(target < 0, -1)
    tolerance, found = TOLERANCE * math.hypot(*target.shape), list[float | None]()
    for c in range(CLASSES):
        true, made = ((boundary(mask) == c).numpy() for mask in (target, predicted))
        if not true.any() and not made.any():
            found.append(None)
            continue
        if not true.any() or not made.any():
            found.append(0.0)
            continue
        precision = (distance_transform_edt(~true)[made] < tolerance).mean()
        recall = (distance_transform_edt(~made)[true] < tolerance).mean()
        found.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return found


@pytest.mark.parametrize("side", [60, 200, 500])
def test_the_boundary_score_is_that_of_distance_transforms(side: int) -> None:
    g = torch.Generator().manual_seed(side)
    coarse = torch.randint(CLASSES - 1, (1, 1, 6, 9), generator=g)  # the last class is in neither
    target = F.interpolate(coarse.float(), (side, side + 20), mode="nearest").long()[0, 0]
    predicted = target.roll((1, 3), (0, 1)).clone()
    predicted[side // 2 :, :9] = 1
    target[side // 3 : side // 2, 20:30] = -1
    scores, there = boundary_f(target, predicted, CLASSES)
    wanted = by_distances(target, predicted)
    assert [value is not None for value in wanted] == there.tolist() and not there[-1]
    assert scores[:-1].tolist() == pytest.approx(wanted[:-1], abs=1e-12)
    assert 0 < scores[0] < 1


def test_a_boundary_is_where_two_classes_meet_and_not_where_nothing_is_known() -> None:
    mask = torch.tensor([[0, 0, 0, -1, 2], [0, 0, 0, -1, 2], [1, 1, 1, -1, 2]])
    assert boundary(mask).tolist() == [[-1, -1, -1, -1, -1], [0, 0, 0, -1, -1], [1, 1, 1, -1, -1]]
    scores, there = boundary_f(mask, mask, 3)
    assert scores.tolist() == [1, 1, 0] and there.tolist() == [True, True, False]


def test_a_thin_thing_that_is_missed_costs_the_boundary_more_than_the_pixels() -> None:
    mask = torch.zeros(1, 100, 100, dtype=torch.int64)
    mask[0, :, 50] = 1
    logits = torch.zeros(1, CLASSES, 100, 100)
    logits[:, 0] = 1
    metrics, _ = measured(logits, list(mask), "data.image_size=100")
    assert metrics["pixel_accuracy"] == 0.99 and metrics["boundary_f"] == 0
    assert numpy.isclose(metrics["miou"], 0.99 / 2)


# -- pictures


def test_an_overlay_has_the_classes_colours_on_the_image_and_in_its_legend() -> None:
    mask = numpy.zeros((40, 60), numpy.int64)
    mask[:, 30:] = 6
    legend = [(0, "ground", 0.5), (6, "a very long name " * 20, 0.496), (3, "speck", 0.004)]
    for size, aside in ((60, 40), 40), ((6, 400), 3), ((3000, 40), 40):
        image = Image.new("RGB", size, (90, 90, 90))
        small = numpy.asarray(Image.fromarray(mask.astype(numpy.uint8)).resize(size, Image.Resampling.NEAREST))
        picture = numpy.asarray(with_overlay(image, small, legend)).astype(int)
        assert 240 <= picture.shape[1] <= 1024
        middle = picture.shape[1] // 2
        left, right = picture[2, middle - aside], picture[2, middle + aside]
        assert left.max() - left.min() <= 2  # grey upon grey
        assert right[0] > right[1] > right[2]  # as the colour 6 is, vermilion
        assert any((picture[-100:].reshape(-1, 3) == colour(number)).all(1).any() for number in (0, 6))


def test_a_mask_is_written_with_its_numbers_whatever_their_count(tmp_path: Path) -> None:
    for classes, mode in (3, "P"), (256, "P"), (300, "I;16"):
        mask = numpy.arange(12).reshape(3, 4) * (classes // 12)
        write_mask(tmp_path / "deep/mask.png", mask, classes)
        with Image.open(tmp_path / "deep/mask.png") as stored:
            assert stored.mode == mode and (numpy.asarray(stored) == mask).all()
