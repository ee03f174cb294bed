"""Numbers, ids, flags and names as tools write them: read as they are meant, or refused by file, id and key."""

import math
from pathlib import Path
from typing import Any

import pytest

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.files import values
from phalanx.data.open import open_split
from tests.data.annotations import COCO, coco, coco_text, voc, voc_object, voc_xml, yolo


def test_a_value_is_kept_or_converted_where_it_has_one_meaning_or_none() -> None:
    for given in (64, 64.0, "64", " 64 ", "64.0", "6.4e1"):
        assert values.integer(given) == 64 and values.number(given) == 64
    for given in (True, None, [], "6_4", "６４", "", "1e", 64.5, math.inf, "nan", 1e30, "1" * 5000, 10**400, "0x40"):
        assert values.integer(given) is None
    assert values.number("nan") != values.number("nan") and values.number(10**400) == math.inf
    assert [values.flag(given) for given in (1, "1", 1.0, True, "true", "TRUE")] == [True] * 6
    assert [values.flag(given) for given in (0, "0", 0.0, False, "false", None)] == [False] * 6
    assert [values.flag(given) for given in (2, "yes", "", [], -1, math.nan)] == [None] * 6
    assert [values.key(given) for given in (7, 7.0, "7", "007", "a", 2**40)] == [7, 7, 7, "007", "a", 2**40]
    assert [values.key(given) for given in (True, None, math.nan, "", "\ud800", "a\0b", [], 2**70, 7.5)] == [None] * 9


MEANT: dict[str, list[tuple[str, int, str, Any]]] = {
    "sides with a point": [("images", 1, "height", 48.0), ("images", 1, "width", 24.0)],
    "sides as text": [("images", 1, "height", "48"), ("images", 1, "width", "24")],
    "an absent side": [("images", 1, "height", None)],
    "no size": [("images", 1, "height", 0), ("images", 1, "width", 0)],
    "a box as text": [("annotations", 0, "bbox", ["2", "4.0", "1e1", " 20"])],
    "ids as text": [("images", 1, "id", "7"), ("annotations", 0, "image_id", "7")],
    "an id as text in one list": [("annotations", 0, "image_id", "7"), ("annotations", 0, "category_id", "3")],
    "ids with a point": [("annotations", 0, "image_id", 7.0), ("categories", 1, "id", 3.0), ("annotations", 0, "id", 11.0)],
    "a large category": [("categories", 1, "id", 2**40), ("annotations", 0, "category_id", 2**40)],
    "a category of text": [("categories", 1, "id", "0-cat"), ("annotations", 0, "category_id", "0-cat")],
    "no id of an object": [("annotations", 0, "id", None)],
    "crowd as false": [("annotations", 0, "iscrowd", False)],
    "crowd as text": [("annotations", 0, "iscrowd", "0")],
    "crowd as null": [("annotations", 0, "iscrowd", None)],
    "a path as in an address": [("images", 1, "file_name", "%37.png")],
    "area as text": [("annotations", 0, "area", "150.5")],
    "a path of Windows": [("images", 1, "file_name", ".\\7.png")],
}  # fmt: skip


@pytest.mark.parametrize("change", MEANT.values(), ids=MEANT)
def test_a_value_of_coco_that_is_nearly_right_is_read_as_it_is_meant(tmp_path: Path, change: Any) -> None:
    data = open_split(coco(tmp_path, *change), "train")
    sample = data[[Path(dataset_info.path(data, place)).name for place in range(3)].index("7.png")]
    assert sample["boxes"].tolist() == [[2, 4, 12, 24], [5.5, 6.5, 13.5, 14.5]]
    assert [data.classes[label] for label in sample["labels"]] == ["cat", "dog"]
    assert sample["area"].tolist() == [150.5, 64] and sample["crowd"].tolist() == [False, False]
    sizes = dataset_info.sizes(data)
    assert sizes is not None and [48, 24] in sizes.tolist()


def test_objects_need_no_ids_and_are_then_named_by_their_places(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "id"} for row in COCO["annotations"]]
    assert dataset_info.class_counts(open_split(coco(tmp_path / "a", annotations=rows), "train")) == [1, 1]
    rows[2]["bbox"] = [90, 90, 5, 5]
    with pytest.raises(UserError, match=r"instances_train\.json: annotation at place 2 of 7\.png: the box"):
        open_split(coco(tmp_path / "b", annotations=rows), "train")


def test_a_name_as_in_an_address_stays_in_its_folder(tmp_path: Path) -> None:
    for told in ("%2e%2e/%2e%2e/etc/passwd", "%00.png", "7%.png", "%37%"):
        data = open_split(coco(tmp_path / str(len(told)), ("images", 1, "file_name", told)), "train")
        assert dataset_info.path(data, 1).endswith(f"/{told}")


def test_ids_are_written_into_results_as_the_file_has_them(tmp_path: Path) -> None:
    data = open_split(
        coco(tmp_path, ("images", 1, "id", "7"), ("categories", 1, "id", "b"), ("annotations", 0, "category_id", "b")), "train"
    )
    assert [dataset_info.image_id(data, place) for place in range(3)] == [1, "7", 9] and dataset_info.category_ids(data) == [
        44,
        "b",
    ]


def test_a_size_that_is_absent_is_reported(tmp_path: Path) -> None:
    (note,) = dataset_info.notes(open_split(coco(tmp_path, ("images", 1, "height", None), ("images", 2, "width", 0)), "train"))
    assert "image 7 has no height and width. 2 of 3 images have none: the sizes of their files are used." in note


WRONG: dict[str, tuple[tuple[str, int, str, Any], str]] = {
    "half a pixel": (("images", 1, "height", 48.5), r"'images' \(id 7\) has the 'height' 48.5, which is not an integer number"),
    "beyond int32": (("images", 1, "height", 2**31), r"\(id 7\) has the 'height' 2147483648, which is not an image size"),
    "negative side": (("images", 1, "width", -24), r"\(id 7\) has the 'width' -24, which is not an image size"),
    "infinite side": (("images", 1, "width", math.inf), r"\(id 7\) has the 'width' inf, which is not an integer number"),
    "side in a list": (("images", 1, "width", [24]), r"\(id 7\) has the 'width' \[24\], which is not an integer number"),
    "true id": (("images", 1, "id", True), r"entry 1 of 'images' \(id True\) has the 'id' True, which is not an id"),
    "no id": (("annotations", 0, "image_id", math.nan), r"\(id 11\) has the 'image_id' nan, which is not an id"),
    "huge id": (("annotations", 0, "category_id", 10**100), r"has the 'category_id' a number of 333 bits, which is not an id"),
    "id in a dictionary": (("categories", 0, "id", {"a": 1}), r"has the 'id' a dictionary of 1, which is not an id"),
    "half a surrogate": (("images", 1, "file_name", "\ud800.png"), r"has the 'file_name' '\\ud800\.png', which is not a file"),
    "NUL": (("images", 1, "file_name", "7\0.png"), r"has the 'file_name' '7\\x00\.png', which is not a file"),
    "line break": (("images", 1, "file_name", "7\n.png"), r"has the 'file_name' '7\\n\.png', which is not a file"),
    "no text": (("images", 1, "file_name", 7), r"has the 'file_name' 7, which is not a file's name"),
    "outside": (("images", 1, "file_name", "../../../etc/passwd"), r"image 7 has the 'file_name' .* leads out of data\.root"),
    "null class": (("categories", 0, "name", None), r"'categories' \(id 44\) has the 'name' None, which is not a name"),
    "half a surrogate in a class": (("categories", 0, "name", "\udc80"), r"has the 'name' '\\udc80', which is not a name"),
    "box of words": (("annotations", 0, "bbox", ["a", 1, 2, 3]), r"\(id 11\) has the 'bbox' \['a', 1, 2, 3\]"),
    "box of lists": (("annotations", 0, "bbox", [[1, 2], [3, 4], 1, 2]), r"has the 'bbox' a list of 4, which is not four"),
    "box of booleans": (("annotations", 0, "bbox", [True, 1, 2, 3]), r"has the 'bbox' \[True, 1, 2, 3\], which is not four"),
    "box in a dictionary": (("annotations", 0, "bbox", {"x": 1}), r"has the 'bbox' a dictionary of 1, which is not"),
    "box beyond floats": (("annotations", 0, "bbox", [10**400, 0, 1, 1]), r"11 of 7\.png: the box inf, .* is not finite"),
    "two crowds": (("annotations", 0, "iscrowd", 2), r"\(id 11\) has the 'iscrowd' 2, which is neither 0 nor 1"),
    "negative area": (("annotations", 0, "area", -3), r"\(id 11\) has the 'area' -3, which is not an area"),
    "an id twice": (("images", 1, "id", "1"), r"the image id 1 occurs twice"),
    "a category twice": (("categories", 1, "id", "44"), r"the category id 44 occurs twice"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG)
def test_a_value_of_coco_that_means_nothing_is_refused_by_id_and_key(tmp_path: Path, change: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        open_split(coco(tmp_path, change), "train")
    assert str(caught.value).startswith(str(tmp_path / "instances_train.json")) and "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"images": [' + "1" * 5000 + "]}", "a number of thousands of digits"),
        ('{"images": {}, "annotations": [], "categories": []}', "it has no list 'images'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "its list 'images' is empty"),
        ('{"images": [[]], "annotations": [], "categories": [1]}', r"entry 0 of 'images' is \[\] instead of a dictionary"),
        ('{"images": [null], "annotations": [], "categories": [1]}', r"entry 0 of 'images' is None instead of a dictionary"),
        ('{"images": [], "annotations": [], "images": []}', r"in one of its objects the key 'images' occurs twice, and one"),
        ('{"images": [{"id": 1, "id": 2}]}', r"the key 'id' occurs twice.* Keep one of them"),
        ('"text"', "it holds 'text', not a dictionary"),
        ('{"images": [1,]}', r"not JSON: line 1, column 1"),
    ],
)
def test_a_json_of_another_shape_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        open_split(coco_text(tmp_path, text), "train")
    assert "\n" not in str(caught.value)


# -- VOC


@pytest.mark.parametrize("sides", [("nan", "nan"), ("inf", 48), ("1e30", "1e30"), (0, 0), ("", 48), (-24, 48), ("x", "y")])
def test_a_size_of_voc_that_is_none_gives_way_to_the_image_s_own(tmp_path: Path, sides: tuple[object, object]) -> None:
    config = voc(tmp_path, voc_xml("", *sides))
    for on_error in ("fail", "skip"):
        data = open_split(config.model_copy(update={"on_error": on_error}), "train")
        assert data[0]["boxes"].tolist() == [[2, 4, 12, 24]]
        sizes, (note,) = dataset_info.sizes(data), dataset_info.notes(data)
        assert sizes is not None and sizes.tolist() == [[48, 24]]
        assert "7.xml: its size is missing, or is not a size. 1 of 1 annotations have none" in note


def test_an_absent_size_of_voc_bounds_boxes_by_the_image_and_an_absent_image_is_named(tmp_path: Path) -> None:
    config = voc(tmp_path, f"<annotation>{voc_object('dog', 3, 5, 40, 24)}</annotation>")
    with pytest.raises(UserError, match=r"7\.xml: object 1: the box .* exceeds the image, which is 24 x 48"):
        open_split(config, "train")
    (tmp_path / "JPEGImages/7.png").unlink()
    data = open_split(config, "train")
    assert dataset_info.sizes(data) is None
    with pytest.raises(UserError, match=r"7\.jpg: there is no such file"):
        data[0]


def test_whole_sides_with_a_point_and_difficult_as_true_are_read(tmp_path: Path) -> None:
    config = voc(tmp_path, voc_xml(voc_object("dog", "3.0", 5, "1.2e1", 24, "<difficult>true</difficult>"), "24.0", 48))
    assert open_split(config, "train")[0]["crowd"].tolist() == [True] and not dataset_info.notes(open_split(config, "train"))


WRONG_VOC: dict[str, tuple[str, str]] = {
    "NaN": (voc_xml(voc_object("dog", "nan", 5, 12, 24)), r"object 1: the box nan, .* has a number that is not finite"),
    "1e30": (voc_xml(voc_object("dog", 3, 5, "1e30", 24)), r"object 1: the box .* exceeds the image"),
    "underscore": (voc_xml(voc_object("dog", "1_0", 5, 12, 24)), r"object 1: bndbox/xmin is not a number: '1_0'"),
    "comma": (voc_xml(voc_object("dog", "3,5", 5, 12, 24)), r"object 1: bndbox/xmin is not a number: '3,5'"),
    "difficult": (voc_xml(voc_object("dog", 3, 5, 12, 24, "<difficult>2</difficult>")), r"object 1: difficult is '2'"),
    "no name": (voc_xml(voc_object("dog", 3, 5, 9, 9) + voc_object("", 3, 5, 12, 24)), r"object 2: it has no name"),
    "no box": (voc_xml("<object><name>dog</name></object>"), r"object 1: bndbox/xmin is missing"),
    "HTML": ("<html><body/></html>", r"this is XML, but not VOC's: its root is 'html'"),
    "no objects": ("<annotation></annotation>", r"the 1 annotations of the training split have no object with a name"),
    "deep": ("<a>" * 100_000, "this is not XML: the text ends before the annotation does"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), WRONG_VOC.values(), ids=WRONG_VOC)
def test_an_annotation_of_voc_that_means_nothing_is_refused_by_file_and_object(
    tmp_path: Path, text: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        open_split(voc(tmp_path, text), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["../../etc/passwd", "/etc/passwd", "a/../../b"])
def test_a_list_of_voc_that_leads_out_of_the_dataset_is_refused_with_its_line(tmp_path: Path, entry: str) -> None:
    with pytest.raises(UserError, match=r"train\.txt: line 2: .* leads out of the dataset"):
        open_split(voc(tmp_path, voc_xml(), listed=f"7\n{entry}\n"), "train")


# -- YOLO


@pytest.mark.parametrize("first", ["1", "1.0", "1.000000e+00"])
def test_a_class_of_yolo_may_have_a_point(tmp_path: Path, first: str) -> None:
    assert dataset_info.class_counts(open_split(yolo(tmp_path, f"{first} .25 0.5 5e-1 0.25\n"), "train")) == [0, 1]


BOX = "0.5 0.5 0.1 0.1"


@pytest.mark.parametrize(
    "line",
    [f"1.5 {BOX}", f"1_0 {BOX}", f"１ {BOX}", "1 0,5 0.5 0.1 0.1", f"1, {BOX}", f"true {BOX}", "9" * 5000, "x" * 100_000],
)
def test_a_line_of_yolo_that_is_not_numbers_is_refused_shortly(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"9\.txt: line 2: .* (is not a class and numbers|a class and 0 numbers)") as caught:
        open_split(yolo(tmp_path, f"\n{line}\n"), "train")
    assert len(str(caught.value)) < 400


NAMES: dict[str, str] = {
    "words that YAML 1.1 takes for booleans": "names: [yes, no, on, off]\nnc: 4",
    "by number": "names: {0: yes, 1: no, 3: off, 2: on}",
    "by number as text": 'names: {"0": yes, "1": no, "2": on, "3": off}',
    "numbers by name": "names: {yes: 0, no: 1, on: 2, off: 3}",
    "lines": "nc: '4'\nnames:\n  - yes\n  - no\n  - 'on'\n  - \"off\"",
}


@pytest.mark.parametrize("text", NAMES.values(), ids=NAMES)
def test_names_in_data_yaml_are_what_is_written(tmp_path: Path, text: str) -> None:
    assert open_split(yolo(tmp_path, "", text), "train").classes == ("yes", "no", "on", "off")


def test_names_that_are_numbers_and_dates_stay_as_written(tmp_path: Path) -> None:
    assert open_split(yolo(tmp_path, "", "names: [1_000, 0x10, 2024-13-45, 1e5, null]"), "train").classes == (
        *("1_000", "0x10", "2024-13-45", "1e5", "null"),
    )


ODD: dict[str, tuple[str, str]] = {
    "a gap": ("names: {0: a, 2: b}", r"names has 2 entries, but none for class 1. Number the classes from 0"),
    "from one": ("names: {1: a, 2: b}", r"names has 2 entries, but none for class 0"),
    "a number twice": ("names: {0: a, 0: b}", r"line 1: the key '0' occurs twice"),
    "a text": ("names: cat, dog", r"it has no names of classes"),
    "nothing": ("names:", r"it has no names of classes"),
    "a list in it": ("names: [[a], b]", r"the name of class 0 is \[\], which is not a name"),
    "an empty name": ("names: [a, '']", r"the name of class 1 is '', which is not a name"),
    "a line break": ('names: ["a\\nb", c]', r"the name of class 0 is 'a\\nb', which is not a name"),
    "half a surrogate": ('names: ["\\uD800", c]', r"the name of class 0 is '\\ud800', which is not a name"),
    "a name twice": ("names: [a, a]", r"names has 'a' twice"),
    "another count": ("names: [a, b]\nnc: 3", r"nc is '3', but names has 2"),
    "a list": ("- a\n- b", r"it holds no keys with values"),
    "empty": ("", r"it holds no keys with values"),
    "two documents": ("names: [a, b]\n---\nnames: [c]", r"line 2: this is not YAML: .*a second document begins here"),
    "a tab": ("names:\n\t- a", r"line 2: this is not YAML: `- a`: it is indented by a tab"),
    "a control character": ("names: [a, b]\nx: \x07", r"line 2 has a control character"),
    "a list as a key": ("? [a]\n: b", r"line 1: a key is not a string"),
    "deep": ("names: " + "[" * 3000, r"nested too deeply"),
    "a bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nnames: [*c, *c]", r"the name of class 0 is \[\]"),
    "an unknown alias": ("names: *x", r"line 1: this is not YAML: `names: \*x`: there is no anchor"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), ODD.values(), ids=ODD)
def test_a_data_yaml_in_an_odd_shape_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"data\.yaml: .*{sentence}") as caught:
        open_split(yolo(tmp_path, "", text), "train")
    assert "\n" not in str(caught.value)


def test_an_alias_bomb_takes_no_time(tmp_path: Path) -> None:
    layers = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))
    assert open_split(yolo(tmp_path, "", f"a0: &a0 [x]\n{layers}\nnames: [cat, dog]"), "train").classes == ("cat", "dog")
