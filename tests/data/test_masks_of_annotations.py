"""COCO's polygons and run lengths: held against their image before anything is allocated, and read as tools write them."""

import json
import random
import resource
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.bad_sample import BadSample
from phalanx.data.files import coco_masks
from phalanx.data.open import open_split
from tests.data.annotations import coco

SQUARE = [2, 4, 12, 4, 12, 24, 2, 24]
ZIGZAG = [value for step in range(400_000) for value in (step % 2 * 24, step % 3)]
BOUNDED: dict[str, tuple[Any, str]] = {
    "a point at 1e8": ([[2, 4, 1e8, 4, 12, 24]], r"a polygon reaches from 2, 4, 1e\+08, 24 .*, far out of .* 24 x 48"),
    "a point at -1e8": ([[2, 4, 12, 4, 12, -1e8]], r"a polygon reaches from 2, -1e\+08, 12, 4 "),
    "one far away in the second polygon": ([SQUARE, [2, 4, 1e8, 4, 12, 24]], r"a polygon reaches from 2, 4, 1e\+08, 24 "),
    "infinity": ([[2, 4, float("inf"), 4, 12, 24]], r"a polygon has a number that is infinite or NaN"),
    "NaN": ([[2, 4, float("nan"), 4, 12, 24]], r"a polygon has a number that is infinite or NaN"),
    "beyond floats": ([[2, 4, 10**400, 4, 12, 24]], r"a polygon has a number that is infinite or NaN"),
    "an endless outline": ([ZIGZAG], r"a polygon's outline is \d+ pixels long"),
    "booleans": ([[True, 4, 12, 4, 12, 24]], r"a polygon is not a list of pairs of numbers"),
    "nested points": ([[[2, 4], [12, 4], [12, 24]]], r"a polygon is not a list of pairs of numbers"),
    "a list in a point": ([[2, 4, [12], 4, 12, 24]], r"a polygon is not a list of pairs of numbers"),
    "an odd one": ([[2, 4, 12, 4, 12, 24, 2]], r"a polygon is not a list of pairs of numbers"),
    "a dictionary among polygons": ([SQUARE, {"counts": [1152], "size": [48, 24]}], r"a polygon is not a list of pairs"),
    "no segmentation": (None, r"its segmentation is neither polygons nor run lengths of 48 x 24 pixels"),
    "a text": ("2 4 12 4", r"its segmentation is neither polygons nor run lengths"),
    "no counts": ({"size": [48, 24]}, r"its segmentation is neither polygons nor run lengths"),
    "another size": ({"size": [24, 48], "counts": [1152]}, r"its segmentation is neither polygons nor run lengths of"),
    "a negative size": ({"size": [-48, -24], "counts": [1152]}, r"its segmentation is neither polygons nor run lengths of"),
    "negative runs": ({"size": [48, 24], "counts": [1200, -100, 52]}, r"its run lengths are not those of the image"),
    "huge runs": ({"size": [48, 24], "counts": [10**18, 1152]}, r"its run lengths are not those of the image"),
    "half a run": ({"size": [48, 24], "counts": [1151.5, 0.5]}, r"its run lengths are not those of the image"),
    "nested runs": ({"size": [48, 24], "counts": [[1152]]}, r"its run lengths are not those of the image"),
    "runs of words": ({"size": [48, 24], "counts": ["a", 1152]}, r"its run lengths are not those of the image"),
    "a cut text": ({"size": [48, 24], "counts": "PT"}, r"its run lengths are not those of the image"),
    "an endless number": ({"size": [48, 24], "counts": "o" * 2_000_000}, r"its run lengths are not those of the image"),
    "garbage": ({"size": [48, 24], "counts": "\x00\x01 ~\x7f"}, r"its run lengths are not those of the image"),
    "half a surrogate": ({"size": [48, 24], "counts": "\ud800"}, r"its run lengths are not those of the image"),
    "no pixel": ({"size": [48, 24], "counts": [1152]}, r"its run lengths hold no pixel"),
    "no pixel in text": ({"size": [48, 24], "counts": "PT1"}, r"its run lengths hold no pixel"),
    "runs of none": ({"size": [48, 24], "counts": [1000, 0, 152]}, r"its run lengths hold no pixel"),
    "bytes of Python": ({"size": [48, 24], "counts": "b'PT1'"}, r"its run lengths are not those of the image"),
}  # fmt: skip


def outlined(root: Path, outline: Any) -> Any:
    whole = [[0, 0, 24, 0, 24, 48, 0, 48]]
    others = [
        ("annotations", 1, "segmentation", {"size": [30, 40], "counts": [0, 1200]}),
        ("annotations", 2, "segmentation", whole),
    ]
    return coco(root, ("annotations", 0, "segmentation", outline), *others, masks=True)


@pytest.mark.parametrize(("outline", "sentence"), BOUNDED.values(), ids=BOUNDED)
def test_an_outline_is_held_against_its_image_before_anything_is_allocated(tmp_path: Path, outline: Any, sentence: str) -> None:
    config = outlined(tmp_path, outline)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"annotation 11 of 7\.png: {sentence}") as caught:
        open_split(config, "train")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    data = open_split(config.model_copy(update={"on_error": "skip"}), "train")
    assert dataset_info.class_counts(data) == [0, 1] and data[1]["masks"].shape == (1, 48, 24)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


MEANT: dict[str, Any] = {
    "one polygon that is not in a list": SQUARE,
    "numbers as text": [[str(value) for value in SQUARE]],
    "runs with a point": {"size": [48.0, "24"], "counts": [100.0, "20", *[28, 20.0] * 9, "600"]},
    "more keys": {"size": [48, 24], "counts": [100, *[20, 28] * 9, 20, 600], "by": "a tool"},
}  # fmt: skip


@pytest.mark.parametrize("outline", MEANT.values(), ids=MEANT)
def test_an_outline_is_read_as_it_is_meant(tmp_path: Path, outline: Any) -> None:
    rectangle = torch.zeros(48, 24, dtype=torch.bool)
    rectangle[4:24, 2:12] = True
    assert torch.equal(open_split(outlined(tmp_path, outline), "train")[1]["masks"][0], rectangle)


def test_points_a_little_beyond_the_image_are_drawn_as_pycocotools_draws_them(tmp_path: Path) -> None:
    from pycocotools import mask as theirs

    outline = [[-3.5, -2, 30.25, 10, 12, 60, -8, 24], [1, 1, 23, 1, 23, 9], [2, 40, 9, 40, 9, 60]]
    for parts in ([outline[0]], outline):
        drawn = coco_masks.mask(json.dumps(parts), 48, 24)
        written = theirs.encode(numpy.asfortranarray(drawn.astype(numpy.uint8)))
        assert written["counts"] == theirs.merge(theirs.frPyObjects(parts, 48, 24))["counts"]
    assert numpy.array_equal(open_split(outlined(tmp_path, outline), "train")[1]["masks"][0].numpy(), drawn)


def test_an_outline_of_an_image_whose_size_was_not_known_is_held_against_it_when_it_is_read(tmp_path: Path) -> None:
    config = coco(
        tmp_path,
        *(("annotations", place, "segmentation", [[2, 4, 1e8, 4, 12, 24]]) for place in range(3)),
        *(("images", place, "height", None) for place in range(3)),
        masks=True,
    )
    for name in ("1", "7", "9"):
        (tmp_path / f"train/{name}.png").unlink()
    data = open_split(config, "train")
    Image.new("RGB", (24, 48)).save(tmp_path / "train/7.png")
    with pytest.raises(BadSample, match=r"7\.png: of its object 1 a polygon reaches from 2, 4, 1e\+08, 24"):
        data[1]


def test_thousands_of_polygons_take_no_longer_than_their_outlines() -> None:
    corner = [0.0, 0, 2, 0, 2, 2, 0, 2]
    drawn = coco_masks.mask(json.dumps([corner] * 5_000), 2000, 2000)  # an image of its own for each took minutes
    assert drawn[:2, :2].all() and drawn.sum() == 4


def test_more_masks_than_memory_are_refused(tmp_path: Path) -> None:
    whole = {"size": [4096, 4096], "counts": [0, 4096 * 4096]}
    rows = [{"id": i, "image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9], "segmentation": whole} for i in range(520)]
    config = coco(tmp_path, ("images", 0, "height", 4096), ("images", 0, "width", 4096), annotations=rows, masks=True)
    Image.new("1", (4096, 4096)).save(tmp_path / "train/1.png")
    with pytest.raises(BadSample, match=r"1\.png: the masks of its 520 objects, 4096 x 4096 pixels each, would take more"):
        open_split(config, "train")[0]


def test_run_lengths_of_random_characters_never_crash() -> None:
    draw = random.Random(21)
    for _ in range(3000):
        text = "".join(chr(draw.choice([*range(40, 120), 300])) for _ in range(draw.randrange(12)))
        told = {"size": [draw.randrange(4), draw.randrange(4)], "counts": text}
        if coco_masks.fault_of(coco_masks.plain(told), 3, 2) is None:
            assert coco_masks.mask(json.dumps(told), 3, 2).shape == (3, 2)
