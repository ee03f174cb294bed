"""Predictions as CSV and as COCO's annotations."""

import csv
from typing import Any

from phalanx.train.evaluation.prediction_tables import found, to_coco, to_csv

_OBJECTS: list[dict[str, Any]] = [
    {"label": "cat, tabby", "class": 0, "score": 0.9, "box": [1.0, 2.0, 11.0, 22.0]},
    {"label": "dog", "class": 2, "score": 0.25, "box": [0.0, 0.0, 5.0, 5.0], "segmentation": {"size": [40, 30], "counts": "x"}},
]
DETECTED: list[dict[str, Any]] = [
    {"file": "a.jpg", "picture": "a.jpg", "width": 30, "height": 40, "objects": _OBJECTS},
    {"file": "broken.jpg", "error": "it is cut off"},
    {"file": "b.jpg", "picture": "b.jpg", "width": 8, "height": 6, "objects": []},
]
CLASSIFIED = [
    {
        "file": f"{n}.jpg",
        "picture": "p",
        "width": 1,
        "height": 1,
        "label": (n % 2 and "odd") or "even",
        "class": n % 2,
        "probability": 0.5,
    }
    for n in range(3)
]


def test_a_table_has_a_row_per_object() -> None:
    first, second, third = csv.DictReader(to_csv(DETECTED).splitlines())
    assert (first["file"], first["label"], first["score"], first["right"]) == ("a.jpg", "cat, tabby", "0.9", "11.0")
    assert second["label"] == "dog" and (third["file"], third["error"], third["label"]) == ("broken.jpg", "it is cut off", "")
    rows = list(csv.DictReader(to_csv(CLASSIFIED).splitlines()))
    assert [row["label"] for row in rows] == ["even", "odd", "even"] and list(rows[0]) == ["file", "label", "probability"]
    assert to_csv([]) == "file\n"


def test_coco_s_annotations_can_be_read_by_its_own_tools() -> None:
    made = to_coco(DETECTED, ["cat, tabby", "fox", "dog"])
    assert [image["file_name"] for image in made["images"]] == ["a.jpg", "b.jpg"]
    one, other = made["annotations"]
    assert (
        one["bbox"] == [1.0, 2.0, 10.0, 20.0] and one["area"] == 200.0 and one["category_id"] == 1 and "segmentation" not in one
    )
    assert other["category_id"] == 3 and other["segmentation"]["counts"] == "x" and other["image_id"] == one["image_id"] == 1
    assert made["categories"][2] == {"id": 3, "name": "dog"}
    assert to_coco(DETECTED, None)["categories"] == [{"id": 1, "name": "cat, tabby"}, {"id": 3, "name": "dog"}]


def test_what_was_found_is_said_in_a_line() -> None:
    assert found(DETECTED, 0.5) == "1 × cat, tabby" and found(DETECTED, 0.2) == "1 × cat, tabby, 1 × dog"
    assert found(DETECTED[2:], 0.5) == "nothing with a score of 0.5 or more"
    assert found(CLASSIFIED, 0.5) == "images with: 2 × even, 1 × odd"
    many = [{"file": "a", "label": f"c{n}", "class": n} for n in range(12)]
    assert found(many, 0.5).endswith("and 4 more classes") and found([], 0.5) == ""
