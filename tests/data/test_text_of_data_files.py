"""The text of labels, lists, names of classes, XML, JSON and YAML: read whoever wrote it, or refused with its line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data import dataset_info
from phalanx.data.open import open_split
from tests.data import annotations
from tests.data.pictures import picture, save

NAMES = ("grün", "chat")


def _list(root: Path, encode: Callable[[str], bytes]) -> DataConfig:
    for name in "ab":
        save(picture(ord(name)), root / f"{name}.png")
    (root / "train.csv").write_bytes(encode("a.png,grün\r\nb.png,chat\r\n"))
    (root / "classes.txt").write_bytes(encode("\r\n".join(NAMES)))
    return DataConfig(name="list", root=str(root))


def _coco(root: Path, encode: Callable[[str], bytes]) -> DataConfig:
    config = annotations.coco(root, ("categories", 0, "name", "chat"), ("categories", 1, "name", "grün"))
    path = root / "instances_train.json"
    path.write_bytes(encode(path.read_text().replace("gr\\u00fcn", "grün").replace("{", "\n{")))
    return config


def _voc(root: Path, encode: Callable[[str], bytes]) -> DataConfig:
    text = annotations.voc_xml(annotations.voc_object("grün", 1, 1, 9, 9) + annotations.voc_object("chat", 1, 1, 9, 9))
    config = annotations.voc(root, encode(text.replace("><", ">\r\n<")), "grün", listed=encode("grün\r\n"))
    (root / "classes.txt").write_bytes(encode("grün\r\nchat\r\n"))
    return config


def _voc_of_utf8(root: Path, encode: Callable[[str], bytes]) -> DataConfig:
    return _voc(root, lambda text: encode(text) if text.startswith("<") else text.encode())


def _yolo(root: Path, encode: Callable[[str], bytes]) -> DataConfig:
    return annotations.yolo(root, encode("1 0.25 0.5\t0.5 0.25\r\n"), encode("nc: 2\r\nnames:\r\n- grün\r\n- chat\r\n"))


FORMATS = {"list": _list, "coco": _coco, "voc": _voc, "yolo": _yolo}
ENCODINGS = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with its mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
}  # fmt: skip


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("written", FORMATS.values(), ids=FORMATS)
def test_text_in_an_encoding_that_says_what_it_is_is_read(
    tmp_path: Path, written: Callable[[Path, Callable[[str], bytes]], DataConfig], encode: Callable[[str], bytes]
) -> None:
    data = open_split(written(tmp_path, encode), "train")
    assert set(data.classes) == set(NAMES) and sum(dataset_info.class_counts(data) or ()) > 0


@pytest.mark.parametrize("encode", [lambda text: text.encode("latin-1"), lambda text: text.encode("gbk", "replace") + b"\xff"])
@pytest.mark.parametrize("written", FORMATS.values(), ids=FORMATS)
def test_text_in_another_encoding_is_refused_with_line_byte_and_remedy(
    tmp_path: Path, written: Callable[[Path, Callable[[str], bytes]], DataConfig], encode: Callable[[str], bytes]
) -> None:
    with pytest.raises(UserError, match=r"line \d+: byte 0x[0-9A-F]{2} is not UTF-8; .* Save the file as UTF-8") as caught:
        open_split(written(tmp_path, encode), "train")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("written", FORMATS.values(), ids=FORMATS)
def test_utf_16_without_a_mark_and_binary_files_are_refused(
    tmp_path: Path, written: Callable[[Path, Callable[[str], bytes]], DataConfig]
) -> None:
    with pytest.raises(UserError, match=r"line [12] holds a NUL character, as UTF-16 without a byte order mark"):
        open_split(written(tmp_path, lambda text: text.encode("utf-16-le")), "train")


@pytest.mark.parametrize("encoding", ["iso-8859-1", "windows-1252", "gb2312", "UTF-8"])
def test_an_xml_that_names_its_encoding_is_read_in_it(tmp_path: Path, encoding: str) -> None:
    name = "绿" if encoding == "gb2312" else "grün"
    declared = f'<?xml version="1.0" encoding="{encoding}"?>'
    text = declared + annotations.voc_xml(annotations.voc_object(name, 1, 1, 9, 9))
    assert open_split(annotations.voc(tmp_path, text.encode(encoding)), "train").classes == (name,)


@pytest.mark.parametrize("encoding", ["utf-16", "unicode_escape", "zlib", "klingon"])
def test_an_xml_that_names_no_encoding_of_text_is_refused_and_net_s_utf_16_is_read(tmp_path: Path, encoding: str) -> None:
    config = annotations.voc(tmp_path, f"<?xml version='1.0' encoding='{encoding}'?>" + annotations.voc_xml())
    if encoding == "utf-16":  # the strings of .NET are UTF-16, whatever the file is
        assert open_split(config, "train").classes == ("dog",)
        return
    with pytest.raises(UserError, match=f"line 1: the encoding '{encoding}' is not known. Save the file as UTF-8"):
        open_split(config, "train")


def test_an_entity_in_utf_16_is_refused_as_in_utf_8(tmp_path: Path) -> None:
    text = '<!DOCTYPE a [<!ENTITY b "c">]>' + annotations.voc_xml()
    with pytest.raises(UserError, match="this XML defines a document type"):
        open_split(annotations.voc(tmp_path, text.encode("utf-16")), "train")


def test_lines_end_where_editors_end_them(tmp_path: Path) -> None:
    config = annotations.yolo(tmp_path, "1 0.25 0.5 0.5 0.25\r0 0.5 0.5 0.5 0.25\r")
    assert dataset_info.class_counts(open_split(config, "train")) == [1, 1]
    (tmp_path / "classes.txt").write_text("a\u2028b\nc\x85d")  # which `str.splitlines` would divide
    assert open_split(config, "train").classes == ("a\u2028b", "c\x85d")


def test_blanks_beside_the_comma_of_a_list_are_no_part_of_its_fields(tmp_path: Path) -> None:
    for name in ("a", "b c"):
        save(picture(len(name)), tmp_path / f"{name}.png")
    config = DataConfig(name="list", root=str(tmp_path))
    for text in (" a.png, dog\nb c.png ,cat \n", '"a.png", "dog"\n"b c.png" ,cat\n'):
        (tmp_path / "train.csv").write_text(text)
        data = open_split(config, "train")
        assert data.classes == ("cat", "dog") and [Path(dataset_info.path(data, i)).name for i in (0, 1)] == [
            "a.png",
            "b c.png",
        ]
    for mark, name in ((";", "semicolon"), ("\t", "tab")):
        (tmp_path / "train.csv").write_text(f"a.png{mark}dog\n")
        with pytest.raises(UserError, match=f"line 1 has 1 field .* Separate them by a comma, not by a {name}"):
            open_split(config, "train")


@pytest.mark.parametrize("name", ["classes.txt", "data.yaml", "labels/train/9.txt"])
def test_a_folder_or_a_pipe_where_a_file_is_meant_is_refused(tmp_path: Path, name: str) -> None:
    config = annotations.yolo(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name) if name != "data.yaml" else (tmp_path / name).mkdir()
    if name == "classes.txt":  # not a file, so that data.yaml counts
        assert open_split(config, "train").classes == ("cat", "dog")
        return
    with pytest.raises(UserError, match=r"not a regular file|no data\.yaml"):
        open_split(config, "train")
