"""Objects from files: COCO's JSON in its layouts, VOC's XML, YOLO's text; and what each says of bad ones."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data import dataset_info
from phalanx.data.dataset import Dataset
from phalanx.data.inspect.check import check_part, judge
from phalanx.data.open import open_split
from phalanx.data.skip_unreadable import SkipUnreadable
from phalanx.data.transforms.pipeline import pipeline
from tests.data.annotations import COCO, SIZES

RUNS = [5 * 48 + 10, 6, 24 * 48 - 5 * 48 - 16]  # six pixels of the sixth column of image 7
OUTLINES = {
    11: [[2, 4, 12, 4, 12, 24, 2, 24]],
    12: {"size": [30, 40], "counts": [0, 1200]},
    13: {"size": [48, 24], "counts": RUNS},
}


def _images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, (width, height) in SIZES.items():
        Image.new("RGB", (width, height), (number * 20, 10, 10)).save(folder / f"{number}.png")


def _coco(root: Path, content: Any = COCO, layout: int = 0) -> DataConfig:
    """Both splits, in one of the layouts."""
    for split in ("train", "val"):
        name = ("annotations/instances_{}.json", "instances_{}.json", "{}/_annotations.coco.json")[layout].format(split)
        _images(root / split)
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return DataConfig(name="coco", root=str(root))


@pytest.mark.parametrize("layout", [0, 1, 2])
def test_coco_is_read_in_each_of_its_layouts(tmp_path: Path, layout: int) -> None:
    data = open_split(_coco(tmp_path, layout=layout), "train")
    assert data.classes == ("cat", "dog") and len(data) == 3 and dataset_info.kind(data) == "detection"
    first, second, last = (data[place] for place in range(3))  # in the order of ids
    assert first["boxes"].tolist() == [[0, 0, 40, 30]] and first["crowd"].tolist() == [True]
    assert second["boxes"].tolist() == [[2, 4, 12, 24], [5.5, 6.5, 13.5, 14.5]]
    assert second["labels"].tolist() == [0, 1] and second["area"].tolist() == [150.5, 64.0]
    assert last["boxes"].shape == (0, 4) and last["labels"].shape == (0,) and last.keys() == first.keys()
    assert dataset_info.class_counts(data) == [1, 1]  # the crowd is not learnt
    assert "masks" not in first
    assert [dataset_info.image_id(data, place) for place in range(3)] == [1, 7, 9] and dataset_info.category_ids(data) == [
        3,
        44,
    ]


def test_images_without_an_object_of_more_than_a_pixel_are_left_out_and_those_of_crowds_stay(tmp_path: Path) -> None:
    content = copy.deepcopy(COCO)
    for annotation in content["annotations"][:1] + content["annotations"][2:]:  # those of the second image
        annotation["bbox"] = [2, 4, 1, 20]
    data = open_split(_coco(tmp_path, content).model_copy(update={"without_objects": "leave_out"}), "train")
    assert [dataset_info.image_id(data, place) for place in range(len(data))] == [1] and data[0]["crowd"].tolist() == [True]


def test_an_area_that_is_missing_is_that_of_the_mask_or_else_of_the_box(tmp_path: Path) -> None:
    content = copy.deepcopy(COCO)
    for annotation in content["annotations"]:
        annotation["segmentation"] = OUTLINES[annotation["id"]]
    content["annotations"][2].pop("area")  # six pixels in a box of 64
    config = _coco(tmp_path, content)
    assert open_split(config, "train")[1]["area"].tolist() == [150.5, 64.0]
    with_masks = open_split(config.model_copy(update={"options": {"masks": True}}), "train")
    assert with_masks[1]["area"].tolist() == [150.5, 6.0] and with_masks[2]["area"].shape == (0,)


def test_a_split_without_any_object_has_masks_and_areas_all_the_same(tmp_path: Path) -> None:
    config = _coco(tmp_path, COCO | {"annotations": []}).model_copy(update={"options": {"masks": True}})
    data = open_split(config, "train")
    assert dataset_info.has_masks(data) and data[0]["masks"].shape == (0, 30, 40) and data[0]["area"].shape == (0,)


def test_ids_of_images_may_be_numbers_and_texts(tmp_path: Path) -> None:
    content = copy.deepcopy(COCO)
    content["images"][0]["id"] = content["annotations"][1]["image_id"] = "one"
    data = open_split(_coco(tmp_path, content), "train")
    assert [Path(dataset_info.path(data, i)).name for i in range(3)] == ["7.png", "9.png", "1.png"]
    assert data[2]["boxes"].tolist() == [[0, 0, 40, 30]]


def test_coco_is_found_by_explicit_paths(tmp_path: Path) -> None:
    _coco(tmp_path)
    (tmp_path / "annotations").rename(tmp_path / "labels")
    (tmp_path / "train").rename(tmp_path / "pictures")
    options = {"annotations": "labels/instances_{split}.json", "images": "pictures"}
    assert len(open_split(DataConfig(name="coco", root=str(tmp_path), options=options), "train")) == 3
    with pytest.raises(UserError, match=r"the split train has none of .*instances_train.json"):
        open_split(DataConfig(name="coco", root=str(tmp_path)), "train")


def test_masks_are_polygons_and_run_lengths_as_numbers_or_text(tmp_path: Path) -> None:
    content = copy.deepcopy(COCO)
    for annotation in content["annotations"]:
        annotation["segmentation"] = OUTLINES[annotation["id"]]
    from pycocotools import mask as runs

    packed = runs.encode(numpy.asfortranarray(numpy.eye(32, dtype=numpy.uint8)))
    content["annotations"].append(
        {
            "id": 14,
            "image_id": 9,
            "category_id": 3,
            "bbox": [0, 0, 32, 32],
            "segmentation": {"size": [32, 32], "counts": packed["counts"].decode()},
        }
    )
    data = open_split(_coco(tmp_path, content).model_copy(update={"options": {"masks": True}}), "train")
    whole, several, diagonal = (data[place]["masks"] for place in range(3))
    assert whole.all() and whole.shape == (1, 30, 40) and whole.dtype == torch.bool
    rectangle = torch.zeros(48, 24, dtype=torch.bool)
    rectangle[4:24, 2:12] = True
    column = torch.zeros(48, 24, dtype=torch.bool)
    column[10:16, 5] = True
    assert torch.equal(several[0], rectangle) and torch.equal(several[1], column)
    assert torch.equal(diagonal[0], torch.eye(32, dtype=torch.bool))


def _voc(root: Path, **more: str) -> DataConfig:
    """Two images; object by object, as XML; `more` are replaced objects by name of the image."""
    _images(root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "ImageSets/Main").mkdir(parents=True)
    dog = _object("dog", 3, 5, 12, 24)
    objects = {"7": dog + _object("cat", 1, 1, 24, 48, difficult=1), "9": ""} | more
    for name, inside in objects.items():
        width, height = SIZES[int(name)]
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        (root / f"Annotations/{name}.xml").write_text(f"<annotation>{size}{inside}</annotation>")
    for split in ("train", "val"):
        (root / f"ImageSets/Main/{split}.txt").write_text("7\n9\n")
    return DataConfig(name="voc", root=str(root))


def _object(name: str, left: float, top: float, right: float, bottom: float, difficult: int = 0) -> str:
    box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def test_voc_counts_pixels_from_one_and_difficult_objects_are_not_learnt(tmp_path: Path) -> None:
    data = open_split(_voc(tmp_path), "train")
    assert data.classes == ("cat", "dog") and dataset_info.kind(data) == "detection"
    assert data[0]["boxes"].tolist() == [[2, 4, 12, 24], [0, 0, 24, 48]]
    assert data[0]["labels"].tolist() == [1, 0] and data[0]["crowd"].tolist() == [False, True]
    assert data[1]["boxes"].shape == (0, 4) and dataset_info.class_counts(data) == [0, 1]
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert open_split(DataConfig(name="voc", root=str(tmp_path)), "val").classes == ("dog", "cat")


def test_voc_has_masks_where_there_is_a_list_for_them_and_boxes_where_they_are_asked_for(tmp_path: Path) -> None:
    config = _voc(tmp_path)
    (tmp_path / "ImageSets/Segmentation").mkdir()
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("7\n")
    (tmp_path / "SegmentationClass").mkdir()
    Image.new("L", SIZES[7]).save(tmp_path / "SegmentationClass/7.png")
    (tmp_path / "JPEGImages/7.jpg").write_bytes((tmp_path / "JPEGImages/7.png").read_bytes())
    assert dataset_info.kind(open_split(config, "train")) == "segmentation"
    assert dataset_info.kind(open_split(config.model_copy(update={"options": {"target": "boxes"}}), "train")) == "detection"
    with pytest.raises(UserError, match=r"data\.options\.target=box: voc has mask and boxes"):
        open_split(config.model_copy(update={"options": {"target": "box"}}), "train")


def _yolo(root: Path, lines: str = "1 0.25 0.5 0.5 0.25\n0 0.1 0.1 0.9 0.1 0.5 0.6\n") -> DataConfig:
    for split in ("train", "val"):
        _images(root / "images" / split)
        (root / "labels" / split).mkdir(parents=True)
        (root / "labels" / split / "9.txt").write_text(lines)
    (root / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    return DataConfig(name="yolo", root=str(root))


def test_yolo_tells_boxes_in_shares_of_the_image_and_polygons(tmp_path: Path) -> None:
    data = open_split(_yolo(tmp_path), "train")
    assert data.classes == ("cat", "dog")
    sample = data[2]
    assert torch.allclose(sample["boxes"], torch.tensor([[0, 12, 16, 20], [3.2, 3.2, 28.8, 19.2]]), atol=1e-5)
    assert sample["labels"].tolist() == [1, 0] and data[0]["boxes"].shape == (0, 4)
    (tmp_path / "classes.txt").write_text("first\nsecond\n")
    assert open_split(DataConfig(name="yolo", root=str(tmp_path)), "train").classes == ("first", "second")


# -- what is learnt


def test_training_sees_what_is_learnt_alone_and_validation_all_of_it_where_it_lies(tmp_path: Path) -> None:
    config = _coco(tmp_path).model_copy(update={"image_size": (60, 80)})
    data = open_split(config, "train")
    crowd, several = data[0], data[1]
    seen = pipeline(config, data, "train")(several | {"id": 1, "epoch": 0})
    stretch = torch.tensor([80 / 24, 60 / 48] * 2)
    assert torch.allclose(seen["boxes"], several["boxes"] * stretch, atol=1e-4) and "crowd" not in seen and "area" not in seen
    without = pipeline(config, data, "train")(crowd | {"id": 0, "epoch": 0})
    assert without["boxes"].shape == (0, 4) and without["labels"].shape == (0,)
    validated = pipeline(config, data, "val")(crowd | {"id": 0, "epoch": 0})
    assert torch.equal(validated["boxes"], crowd["boxes"]) and validated["crowd"].tolist() == [True]
    assert validated["size"].tolist() == [30, 40] and validated["image"].shape == (3, 60, 80)


# -- bad data: one sentence, with file and id


def _changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], DataConfig]:
    def made(root: Path) -> DataConfig:
        content = copy.deepcopy(COCO)
        change(content)
        return _coco(root, content)

    return made


def _with_box(box: list[float]) -> Callable[[Path], DataConfig]:
    return _changed(lambda content: content["annotations"][0].update(bbox=box))


def _with_outline(outline: Any) -> Callable[[Path], DataConfig]:
    def made(root: Path) -> DataConfig:
        content = copy.deepcopy(COCO)
        for annotation in content["annotations"]:
            annotation["segmentation"] = OUTLINES[annotation["id"]]
        content["annotations"][0]["segmentation"] = outline
        return _coco(root, content).model_copy(update={"options": {"masks": True}})

    return made


LEFT_OUT: dict[str, tuple[Callable[[Path], DataConfig], str]] = {
    "outside": (_with_box([20, 4, 10, 20]), r"annotation 11 of 7\.png: the box 20, 4, 30, 24 .* exceeds .* which is 24 x 48"),
    "beside": (_with_box([24, 4, 1, 20]), r"annotation 11 of 7\.png: the box 24, 4, 25, 24 .* exceeds .* which is 24 x 48"),
    "no area": (_with_box([2, 4, 0, 20]), r"annotation 11 of 7\.png: the box 2, 4, 2, 24 .* has no area"),
    "no area in float32": (_with_box([20.000001, 4, 1e-7, 20]), r"annotation 11 of 7\.png: the box .* no area once"),
    "rounded inside": (_with_box([24 - 1e-9, 4, 0.5, 20]), r"annotation 11 of 7\.png: the box .* no area once"),
    "negative": (_with_box([2, 4, -3, 20]), r"annotation 11 of 7\.png: the box 2, 4, -1, 24 .* has a negative side"),
    "NaN": (_with_box([2, float("nan"), 3, 20]), r"annotation 11 of 7\.png: the box 2, nan, 5, nan .* not finite"),
    "category": (
        _changed(lambda content: content["annotations"][1].update(category_id=5)),
        r"instances_train\.json: annotation 12: there is no category 5",
    ),
    "image": (
        _changed(lambda content: content["annotations"][2].update(image_id=8)),
        r"instances_train\.json: annotation 13: there is no image 8",
    ),
    "two points": (_with_outline([[2, 4, 12, 24]]), r"annotation 11 of 7\.png: a polygon of 2 points"),
    "runs": (_with_outline({"size": [48, 24], "counts": [3, 4]}), r"annotation 11 of 7\.png: its run lengths are not those"),
    "size of runs": (_with_outline({"size": 24, "counts": [3, 4]}), r"annotation 11 of 7\.png: its segmentation is neither"),
    "VOC outside": (lambda root: _voc(root, **{"7": _object("dog", 3, 5, 40, 24)}), r"7\.xml: object 1: the box 2, 4, 40, 24"),
    "VOC no area": (lambda root: _voc(root, **{"7": _object("dog", 3, 5, 2, 24)}), r"7\.xml: object 1: the box .* has no area"),
    "YOLO class": (lambda root: _yolo(root, "2 0.5 0.5 0.1 0.1\n"), r"9\.txt: line 1: class 2, but there are 2, from 0"),
    "YOLO no area": (lambda root: _yolo(root, "1 0.9 0.5 1e-50 0.1\n"), r"9\.txt: line 1: the box .* has no area"),
    "YOLO rounded": (lambda root: _yolo(root, "1 0.9 0.5 1e-9 0.1\n"), r"9\.txt: line 1: the box .* has no area once"),
    "YOLO outside": (lambda root: _yolo(root, "1 0.9 0.5 0.5 0.1\n"), r"9\.txt: line 1: the box .* exceeds the image"),
}  # fmt: skip


@pytest.mark.parametrize(("made", "sentence"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_an_object_that_cannot_be_used_is_named_or_left_out_and_counted(
    tmp_path: Path, made: Callable[[Path], DataConfig], sentence: str
) -> None:
    config = made(tmp_path)
    with pytest.raises(UserError, match=sentence) as caught:
        open_split(config, "train")
    assert "\n" not in str(caught.value) and "data.on_error=skip" in str(caught.value)
    data = open_split(config.model_copy(update={"on_error": "skip"}), "train")
    (note,) = dataset_info.notes(data)
    assert note.endswith("They are left out.") and " 1 of " in note
    assert len(data) == (2 if config.name == "voc" else 3)


REFUSED: dict[str, tuple[Callable[[Path], DataConfig], str]] = {
    "no JSON": (lambda root: _coco(root, '{"images": ['), r"instances_train\.json: this is not JSON"),
    "a list": (lambda root: _coco(root, "[1]"), r"not COCO's: it holds \[1\], not a dictionary"),
    "no categories": (_changed(lambda content: content.pop("categories")), r"not COCO's: it has no list 'categories'"),
    "no box": (_changed(lambda content: content["annotations"][0].pop("bbox")), r"'annotations' \(id 11\) has no 'bbox'"),
    "three numbers": (_with_box([1, 2, 3]), r"\(id 11\) has the 'bbox' \[1, 2, 3\], which is not four numbers"),
    "area": (
        _changed(lambda content: content["annotations"][0].update(area="large")),
        r"entry 0 of 'annotations' \(id 11\) has the 'area' 'large', which is not a number",
    ),
    "image twice": (
        _changed(lambda content: content["images"].append(content["images"][0])),
        r"instances_train\.json: the image id 1 occurs twice",
    ),
    "annotation twice": (
        _changed(lambda content: content["annotations"][0].update(id=13)),
        r"instances_train\.json: the annotation id 13 occurs twice",
    ),
    "XML": (lambda root: _voc(root, **{"7": "<object>"}), r"7\.xml: line 1, column 88: this is not XML"),
    "entities": (
        lambda root: _with_text(_voc(root), root / "Annotations/7.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
        r"7\.xml: this XML defines a document type",
    ),
    "no number": (lambda root: _voc(root, **{"7": _object("dog", "x", 5, 8, 24)}), r"object 1: bndbox/xmin is not a number"),  # type: ignore[arg-type]
    "words": (lambda root: _yolo(root, "dog 0.5 0.5 0.1 0.1\n"), r"9\.txt: line 1: 'dog 0\.5 0\.5 0\.1 0\.1' is not a class"),
    "five numbers": (lambda root: _yolo(root, "1 0.5 0.5 0.1 0.1 0.1\n"), r"9\.txt: line 1: a class and 5 numbers"),
    "no names": (lambda root: _with_text(_yolo(root), root / "data.yaml", "nc: 2\n"), r"data\.yaml: it has no names"),
}  # fmt: skip


def _with_text(config: DataConfig, path: Path, text: str) -> DataConfig:
    path.write_text(text)
    return config


@pytest.mark.parametrize(("made", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_not_what_it_should_be_is_refused_in_one_sentence(
    tmp_path: Path, made: Callable[[Path], DataConfig], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        open_split(made(tmp_path), "train")
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_than_its_annotations_say_is_named(tmp_path: Path) -> None:
    data: Dataset = open_split(_coco(tmp_path), "train")
    Image.new("RGB", (10, 10)).save(tmp_path / "train/9.png")
    with pytest.raises(UserError, match=r"9\.png: the image is 10 x 10 pixels, but its annotations are for 32 x 32"):
        data[2]


@pytest.mark.parametrize(("made", "gone"), [(_coco, "train/9.png"), (_voc, "JPEGImages/9.png")], ids=["coco", "voc"])
def test_an_image_that_is_listed_but_absent_is_named_or_skipped_in_training(
    tmp_path: Path, made: Callable[[Path], DataConfig], gone: str
) -> None:
    config = made(tmp_path)
    (tmp_path / gone).unlink()
    data = open_split(config, "train")
    with pytest.raises(UserError, match=r"9\.\w+: there is no such file\. 1 of . samples cannot be read"):
        judge(check_part(data, config, 0, 1, lambda: None), data, config, "train")
    skipping = open_split(config.model_copy(update={"on_error": "skip"}), "train")
    assert isinstance(skipping, SkipUnreadable)
    assert torch.equal(skipping[len(data) - 1]["boxes"], data[0]["boxes"]) and skipping.met() == [len(data) - 1]


def test_heights_and_widths_are_known_where_the_annotations_have_them(tmp_path: Path) -> None:
    sizes = dataset_info.sizes(open_split(_coco(tmp_path / "coco"), "train"))
    assert sizes is not None and sizes.tolist() == [[30, 40], [48, 24], [32, 32]]
    part = open_split(_voc(tmp_path / "voc").model_copy(update={"fold": "1/2"}), "train")
    sizes = dataset_info.sizes(part)
    assert sizes is not None and sizes.tolist() == [list(part[0]["image"].shape[1:])]
    assert dataset_info.sizes(open_split(_yolo(tmp_path / "yolo"), "train")) is None
