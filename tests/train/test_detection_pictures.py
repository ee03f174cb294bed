"""Pictures of detections: boxes and masks where they belong, names that can be read, curves and confusion as they are."""

import numpy
import pytest
import torch
from PIL import Image

from phalanx.data.inspect.drawing import colour, draw_boxes
from phalanx.train.metrics.coco_ap import RECALLS
from phalanx.train.metrics.detection_confusion import confusion as confusion_of
from phalanx.train.pictures import confusion, detection_curves, precision_recall
from phalanx.train.pictures.detections import with_detections
from tests.train.detecting import made, rows

GREY = (90, 90, 90)
LONG = "a class whose name is much longer than the picture is wide, and that goes on"


def painted(image: Image.Image, number: int) -> numpy.ndarray:
    """Where a picture has the colour of a class or an instance: [H, W]."""
    return (numpy.asarray(image) == numpy.array(colour(number + 1))).all(axis=-1)


@pytest.mark.parametrize(("size", "factor"), [((400, 300), 1), ((64, 48), 5), ((3000, 1500), 1024 / 3000)])
def test_a_box_is_drawn_where_it_lies_whether_the_picture_is_enlarged_or_not(size: tuple[int, int], factor: float) -> None:
    width, height = size
    box = [width / 4, height / 2, width * 3 / 4, height - 1]
    drawn = with_detections(Image.new("RGB", size, GREY), [box], [2], [0.5], ["a", "b", "c"])
    line = painted(drawn, 2)
    middle = round((box[1] + box[3]) / 2 * factor)  # below the name
    columns = numpy.flatnonzero(line[middle])
    assert columns[[0, -1]].tolist() == [round(box[0] * factor), round(box[2] * factor) - 1]
    assert numpy.flatnonzero(line[:, drawn.width // 2])[-1] == round(box[3] * factor) - 1


def test_masks_of_neighbours_of_one_class_have_colours_of_their_own_and_the_best_lies_on_top() -> None:
    masks = torch.zeros(2, 240, 320, dtype=torch.bool)
    masks[0, 100:200, 40:160], masks[1, 100:200, 140:260] = True, True
    boxes = [[40.0, 100, 160, 200], [140.0, 100, 260, 200]]
    drawn = numpy.asarray(with_detections(Image.new("RGB", (320, 240), GREY), boxes, [0, 0], [0.9, 0.8], ["cell"], masks))
    for (x, y), number in {(90, 150): 0, (230, 150): 1}.items():
        assert drawn[y, x].tolist() == [round(0.5 * (90 + level)) for level in colour(number + 1)]
    both = (0.5 * (0.5 * (90 + numpy.array(colour(2))) + numpy.array(colour(1)))).round()
    assert numpy.abs(drawn[150, 150] - both).max() <= 1 and drawn[20, 20].tolist() == list(GREY)


@pytest.mark.parametrize("size", [(8, 8), (20, 400), (640, 8)])
def test_images_of_odd_sizes_and_long_names_make_pictures(size: tuple[int, int]) -> None:
    width, height = size
    masks = torch.ones(1, height, width, dtype=torch.bool)
    drawn = with_detections(Image.new("RGB", size, GREY), [[0, 0, width, height]], [0], [1.0], [LONG], masks)
    assert drawn.width >= 240 and painted(drawn, 0).any()


def test_without_detections_the_image_is_as_it_was() -> None:
    image = Image.new("RGB", (300, 300), GREY)
    drawn = with_detections(image, [], [], [], ["a"], torch.zeros(0, 300, 300, dtype=torch.bool))
    assert numpy.array_equal(numpy.asarray(drawn), numpy.asarray(image))


def test_names_never_lie_on_one_another_and_those_of_the_first_boxes_are_there() -> None:
    alone, together = (Image.new("RGB", (200, 120), GREY) for _ in range(2))
    box = [50.0, 40, 150, 100]
    draw_boxes(alone, [box], [0], ["first"])
    draw_boxes(together, [box] * 60, [0] + [1] * 59, ["first"] + ["another name"] * 59)
    name = numpy.asarray(alone)[25:40, 50:79]
    assert numpy.array_equal(numpy.asarray(together)[25:40, 50:79], name)
    filled = painted(together, 1)
    assert 2000 < filled.sum() < 5 * 15 * 80  # four or five names, not sixty


def test_curves_go_through_their_points() -> None:
    precision = numpy.full((101, 2), -1.0)
    precision[:, 0] = numpy.where(RECALLS <= 0.6, 0.75, 0)
    drawn = numpy.asarray(precision_recall.precision_recall(RECALLS, precision, ["seen", "absent"], "title"))
    bright = (drawn[44:484, 62:502] > 200).all(axis=-1)  # the mean, which is that of the one class
    assert numpy.flatnonzero(bright[:, 200]).mean() == pytest.approx(0.25 * 439, abs=1.5)
    assert numpy.flatnonzero(bright[200]).mean() == pytest.approx(0.605 * 439, abs=3)
    assert numpy.flatnonzero(bright[:, 400]).mean() == pytest.approx(438, abs=2)
    nothing = precision_recall.precision_recall(RECALLS, numpy.full((101, 2), -1.0), ["a", "b"], "title")
    assert not (numpy.asarray(nothing)[44:484, 62:502] > 200).all(axis=-1).any()


def test_cells_of_a_confusion_show_shares_of_their_row() -> None:
    table = numpy.array([[90, 10, 0], [0, 0, 0], [0, 5, 0]])
    drawn = numpy.asarray(confusion.confusion(table, ["a", "b", "background"], "title")).astype(int)
    side = 48
    left, top = (position - 3 * side for position in _ends(drawn))
    cell = {(r, c): drawn[top + r * side + 3, left + c * side + 3].tolist() for r in range(3) for c in range(3)}
    assert cell[1, 0] == cell[1, 1] == cell[2, 2] == cell[0, 2]  # nothing
    assert cell[0, 0][2] > cell[0, 0][0] and cell[2, 1] == [230, 159, 0]
    assert sum(cell[0, 1]) < sum(cell[2, 1]) and cell[0, 1][0] > cell[0, 1][2]


def _ends(drawn: numpy.ndarray) -> tuple[int, int]:
    """Right and lower end of the cells of a confusion, each with its gap."""
    there = (drawn == numpy.array([38, 42, 50])).all(axis=-1)
    rows_, columns = numpy.nonzero(there)
    return int(columns.max()) + 2, int(rows_.max()) + 2


def test_of_many_classes_those_are_shown_that_are_mistaken_most_often() -> None:
    table = numpy.diag(numpy.full(101, 50))
    table[70, 20] = 9
    assert {20, 70, 100} <= set(confusion._most_mistaken(table)) and len(confusion._most_mistaken(table)) == 40
    drawn = confusion.confusion(table, [f"{LONG} {i}" for i in range(101)], LONG)
    assert max(drawn.size) < 1300


def test_an_evaluation_is_drawn_as_curves_and_confusion() -> None:
    cases = made(4)
    table = sum((confusion_of(p, t, 3, 0.5) for _, p, t in cases), torch.zeros(4, 4, dtype=torch.int64))
    found = detection_curves.pictures({"boxes": rows(cases), "masks": rows(cases)}, table, ["a", "b", "c"])
    assert list(found) == ["precision_recall", "mask_precision_recall", "confusion"]
    empty = torch.zeros(0, 6).double(), torch.zeros(0, 2).double()
    assert list(detection_curves.pictures({"boxes": empty}, table * 0, ["a"] * 3)) == ["precision_recall", "confusion"]
