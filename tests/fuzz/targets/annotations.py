"""Boxes and outlines: COCO's JSON, VOC's XML and lists, YOLO's text and data.yaml."""

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.fuzz import mutations, values
from tests.fuzz.case import Case, Content
from tests.fuzz.law import Refused
from tests.fuzz.targets.pictures import image, open_and_check
from tests.fuzz.targets.target import Target

_SIZES = {1: (24, 20), 7: (14, 26), 9: (16, 16)}  # width and height, by image id
_COCO: dict[str, Any] = {
    "info": {"year": 2020},
    "licenses": [],
    "images": [{"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in _SIZES.items()],
    "categories": [{"id": 44, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {
            "id": 11,
            "image_id": 7,
            "category_id": 3,
            "bbox": [2, 4, 10, 20],
            "area": 150.5,
            "iscrowd": 0,
            "segmentation": [[2, 4, 12, 4, 12, 24, 2, 24]],
        },
        {
            "id": 12,
            "image_id": 1,
            "category_id": 44,
            "bbox": [0, 0, 24, 20],
            "area": 480,
            "iscrowd": 1,
            "segmentation": {"size": [20, 24], "counts": [0, 480]},
        },
        {
            "id": 13,
            "image_id": 9,
            "category_id": 44,
            "bbox": [5.5, 6.5, 8, 8],
            "area": 64,
            "iscrowd": 0,
            "segmentation": {"size": [16, 16], "counts": "\\01c0X6c000"},
        },
    ],
}
_KEYS: dict[str, Any] = {"check": "full", "workers": 0, "root": "."}


def _number(draw: mutations.Draw) -> Any:
    return draw(st.one_of(st.sampled_from(values.NUMBERS), values.scalars))


@st.composite
def _coco(draw: mutations.Draw) -> Case:
    content: Any = json.loads(json.dumps(_COCO))
    how = draw(st.sampled_from(["tree", "tree", "number", "number", "outline", "files", "bytes"]))
    files: dict[str, Content] = {}
    for split in ("train", "val"):
        files |= {f"{split}/{i}.png": image("PNG", "RGB", w, h, i) for i, (w, h) in _SIZES.items()}
    if how == "tree":
        content = mutations.tree(draw, content)
    elif how == "number":
        place = draw(
            st.sampled_from(["bbox", "area", "iscrowd", "id", "width", "height", "category_id", "image_id", "outline"])
        )
        row = content["images" if place in ("width", "height") else "annotations"][draw(st.integers(0, 2))]
        if place == "bbox":
            row["bbox"][draw(st.integers(0, 3))] = _number(draw)
        elif place == "outline" and isinstance(row["segmentation"], list):
            row["segmentation"][0][draw(st.integers(0, 7))] = _number(draw)
        elif place == "outline":
            row["segmentation"]["counts"] = draw(values.values)
        else:
            row[place] = _number(draw)
    elif how == "outline":
        content["annotations"][draw(st.integers(0, 2))]["segmentation"] = draw(values.values)
    written = json.dumps(content).encode()
    if how == "bytes":
        written = (
            mutations.raw(draw, written, head=len(written))
            if draw(st.booleans())
            else mutations.encoded(draw, written.decode())
        )
    files |= {f"annotations/instances_{split}.json": written for split in ("train", "val")}
    if how == "files":
        files = mutations.files(draw, files)
    keys = _KEYS | {
        "name": "coco",
        "options": {"masks": draw(st.booleans())},
        "on_error": draw(st.sampled_from(["fail", "skip"])),
    }
    return Case("coco", files, keys)


_XML = """<annotation>
<folder>a</folder>
<filename>{name}.jpg</filename>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>
<segmented>0</segmented>
<object>
<name>dog</name>
<difficult>0</difficult>
<truncated>0</truncated>
<bndbox><xmin>3</xmin><ymin>5</ymin><xmax>12</xmax><ymax>14</ymax></bndbox>
</object>
<object>
<name>cat</name>
<difficult>1</difficult>
<bndbox>
<xmin>1</xmin>
<ymin>1</ymin>
<xmax>14</xmax>
<ymax>16</ymax>
</bndbox>
</object>
</annotation>
"""
_ELEMENTS = ["<xmin>nan</xmin>", "<xmax>inf</xmax>", "<ymax>1e30</ymax>", "<xmin></xmin>", "<name></name>", "<name>a\tb</name>"]
_ELEMENTS += [
    "<size><width>nan</width><height>1e30</height></size>",
    "<width>0</width>",
    "<height>-5</height>",
    "<width>1e400</width>",
]
_ELEMENTS += [
    "<object></object>",
    "<object><name>dog</name></object>",
    "<bndbox/>",
    "<difficult>maybe</difficult>",
    "&lt;",
    "&x;",
]
_ELEMENTS += [
    '<?xml version="1.0" encoding="utf-16"?>',
    '<?xml version="1.0" encoding="klingon"?>',
    "<![CDATA[",
    "]]>",
    "<!-- a",
]
_ELEMENTS += [
    "<!DOCTYPE a [<!ENTITY x 'y'>]>",
    "<a:b/>",
    "<width>１２</width>",
    "<xmin>1_0</xmin>",
    "<xmin> 3 </xmin>",
    "<a>" * 3_000,
]


@st.composite
def _voc(draw: mutations.Draw) -> Case:
    files: dict[str, Content] = {}
    for number in (7, 9):
        width, height = _SIZES[number]
        files[f"JPEGImages/{number}.jpg"] = image("JPEG", "RGB", width, height, number)
        files[f"Annotations/{number}.xml"] = _XML.format(name=number, width=width, height=height).encode()
    files |= {f"ImageSets/Main/{split}.txt": b"7\n9\n" for split in ("train", "val")}
    how = draw(st.sampled_from(["xml", "xml", "xml", "xml", "bytes", "list", "classes", "files"]))
    which = f"Annotations/{draw(st.sampled_from([7, 9]))}.xml"
    if how == "xml":
        files[which] = mutations.encoded(draw, mutations.text(draw, _as_text(files[which]), _ELEMENTS))
    elif how == "bytes":
        files[which] = mutations.raw(draw, _as_text(files[which]).encode(), head=400)
    elif how == "list":
        lines = ["7  1", "7 -1", " 7", "7 ", "8", "7\t", "../7", "/7", "7.jpg", "\ufeff7", "é"]
        files["ImageSets/Main/train.txt"] = mutations.encoded(draw, mutations.text(draw, "7\n9\n", lines))
    elif how == "classes":
        files["classes.txt"] = mutations.encoded(draw, mutations.text(draw, "cat\ndog\n", ["void", "cat", " dog", "dog "]))
    else:
        files = mutations.files(draw, files)
    keys = _KEYS | {"name": "voc", "on_error": draw(st.sampled_from(["fail", "skip"]))}
    return Case("voc", files, keys)


_LABELS = "0 0.5 0.5 0.2 0.3\n1 0.25 0.5 0.1 0.9\n\n1 0.1 0.1 0.4 0.1 0.4 0.6 0.1 0.6\n"
_OBJECTS = [
    "0 nan 0.5 0.1 0.1",
    "0 inf 0.5 0.1 0.1",
    "0 1e308 0.5 1e308 0.1",
    "-1 0.5 0.5 0.1 0.1",
    "0.0 0.5 0.5 0.1 0.1",
    "1e0 0 0 0 0",
]
_OBJECTS += [
    "99999999999999999999 0.5 0.5 0.1 0.1",
    "0 0,5 0,5 0,1 0,1",
    "0,0.5,0.5,0.1,0.1",
    "0 0.5 0.5 0.1 0.1 0.9",
    "0",
    "0 0.5",
]
_OBJECTS += [
    "0 1_0 0.5 0.1 0.1",
    "² 0.5 0.5 0.1 0.1",
    "٣ 0.5 0.5 0.1 0.1",
    "0 0.5 0.5 0 0",
    "0 0.5 0.5 -0.1 0.1",
    "0 320 240 10 10",
    "# a",
]
_OBJECTS += [
    "0 " + "0.1 0.2 " * 2_000,
    "9" * 5_000 + " 0.5 0.5 0.1 0.1",
    "0x1 0.5 0.5 0.1 0.1",
    "0 0.999 0.5 0.1 0.1",
    "dog 0.5 0.5 0.1 0.1",
]
_DATA: dict[str, Any] = {"path": ".", "train": "images/train", "val": "images/val", "nc": 2, "names": ["cat", "dog"]}
_DATA_LINES = [
    "names: [yes, no]",
    "names: {0: a, 1: b}",
    "names: {0: a, 2: b}",
    "names: {'0': a, '1': b}",
    "names: cat",
    "names: 2",
]
_DATA_LINES += [
    "names: {a: 0, b: 1}",
    "names: [[a], {b: 1}]",
    "names: [null, 1.5]",
    "names: [2020-01-01, b]",
    "nc: 3",
    "names:",
    "nc: x",
]
_DATA_LINES += [
    "names: {0: a, x: b}",
    "names: {null: a}",
    "names: {[1]: a}",
    "train: [a, b]",
    "path: /nowhere",
    "names: !!set {a, b}",
]
_DATA_LINES += [
    "names: !!timestamp x",
    "names: !!python/object:os.system a",
    "names: &a [*a]",
    "names: [0o7, 0x1F]",
    "train: 5",
]


@st.composite
def _yolo(draw: mutations.Draw) -> Case:
    files: dict[str, Content] = {}
    for split in ("train", "val"):
        for number in (7, 9):
            files[f"images/{split}/{number}.png"] = image("PNG", "RGB", *_SIZES[number], number)
            files[f"labels/{split}/{number}.txt"] = _LABELS.encode()
    how = draw(st.sampled_from(["labels", "labels", "labels", "data", "lines", "classes", "files", "bytes"]))
    which = f"labels/train/{draw(st.sampled_from([7, 9]))}.txt"
    files["data.yaml"] = yaml.safe_dump(_DATA).encode()
    if how == "labels":
        files[which] = mutations.encoded(draw, mutations.text(draw, _LABELS, _OBJECTS))
    elif how == "bytes":
        files[which] = mutations.raw(draw, _LABELS.encode())
    elif how == "data":
        files["data.yaml"] = mutations.yaml_bytes(draw, mutations.tree(draw, _DATA))
    elif how == "lines":
        files["data.yaml"] = mutations.encoded(draw, mutations.text(draw, yaml.safe_dump(_DATA), _DATA_LINES))
    elif how == "classes":
        files["classes.txt"] = mutations.encoded(draw, mutations.text(draw, "cat\ndog\n", ["void", "cat", " dog", "0 cat"]))
    else:
        files = mutations.files(draw, files)
    keys = _KEYS | {"name": "yolo", "on_error": draw(st.sampled_from(["fail", "skip"]))}
    return Case("yolo", files, keys)


def _as_text(content: Content) -> str:
    assert isinstance(content, bytes)
    return content.decode()


def door(case: Case, _: Path) -> None:
    """A data set with the keys of `data` that the case gives."""
    from phalanx.configs.sections.data import DataConfig

    try:
        config = DataConfig.model_validate(case.given)
    except ValueError:
        raise Refused("the keys of data are refused, as recipes are") from None
    open_and_check(config)


def prepare() -> None:
    """What opens data sets."""


TARGETS = [
    Target("coco", "COCO's JSON: images, boxes, polygons, run lengths, categories", 180, _coco, door, prepare=prepare),
    Target("voc", "VOC's XML, lists, `classes.txt`", 150, _voc, door, prepare=prepare),
    Target("yolo", "YOLO's text, `data.yaml`, `classes.txt`", 150, _yolo, door, prepare=prepare),
]
