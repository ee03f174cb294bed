"""Folders and names as people and their tools have them: read, or told where things are looked for."""

import os
from pathlib import Path

import pytest
from PIL import Image

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data import dataset_info
from phalanx.data.bad_sample import BadSample
from phalanx.data.dataset import Dataset
from phalanx.data.files.walking import files_below
from phalanx.data.open import open_split
from tests.data.annotations import coco, images, voc, voc_object, voc_xml, yolo


def names(data: Dataset) -> list[str]:
    return [Path(dataset_info.path(data, place)).name for place in range(len(data))]


# -- VOC


@pytest.mark.parametrize("suffix", [".jpg", ".Jpg", ".JPEG", ".bmp", ".BMP", ".tif", ".TIFF", ".webp", ".png", ".gif"])
def test_an_image_of_voc_is_found_by_every_suffix_that_the_docs_promise(tmp_path: Path, suffix: str) -> None:
    assert names(open_split(voc(tmp_path, voc_xml(), suffix=suffix), "train")) == [f"7{suffix}"]


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("my image", "my image\n"),
        ("my image 1", "my image 1\n"),
        ("my image", "my image  1\r\n"),
        ("my image", "\ufeffmy image.png\r\n\r\n"),
        ("my image", "my image.JPG -1\n"),
        ("a.b", "a.b\n"),
        ("image  -1", "image  -1\n"),
    ],
)
def test_a_name_of_voc_may_have_blanks_a_suffix_and_the_column_of_a_class(tmp_path: Path, name: str, listed: str) -> None:
    assert names(open_split(voc(tmp_path, voc_xml(), name, listed=listed), "train")) == [f"{name}.png"]


def test_masks_of_voc_are_found_as_its_boxes_are(tmp_path: Path) -> None:
    voc(tmp_path, voc_xml(), "my image", suffix=".BMP")
    (tmp_path / "ImageSets/Segmentation").mkdir()
    (tmp_path / "ImageSets/Segmentation/train.txt").write_bytes("my image\r\n".encode("utf-16"))
    (tmp_path / "SegmentationClass").mkdir()
    Image.new("L", (24, 48)).save(tmp_path / "SegmentationClass/my image.PNG", format="PNG")
    data = open_split(DataConfig(name="voc", root=str(tmp_path)), "train")
    assert dataset_info.kind(data) == "segmentation" and names(data) == ["my image.BMP"] and data[0]["mask"].shape == (48, 24)


def test_an_annotation_of_voc_may_have_its_suffix_in_capitals_and_be_absent_in_one_sentence(tmp_path: Path) -> None:
    config = voc(tmp_path, voc_xml(), listed="7\nanother\n")
    (tmp_path / "Annotations/7.xml").rename(tmp_path / "Annotations/7.XML")
    with pytest.raises(UserError, match=r"another\.xml: there is no such file, but the split lists another"):
        open_split(config, "train")
    (tmp_path / "ImageSets/Main/train.txt").write_text("7\n")
    assert len(open_split(config, "train")) == 1
    (tmp_path / "ImageSets/Main/train.txt").write_text(" \n\n")
    with pytest.raises(UserError, match=r"train\.txt: the list has no images"):
        open_split(config, "train")


# -- YOLO


def roboflow(
    root: Path, data_yaml: str = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n"
) -> DataConfig:
    for split in ("train", "valid"):
        images(root / split / "images", ".jpg")
        (root / split / "labels").mkdir()
        (root / split / "labels/9.txt").write_text("1 0.25 0.5 0.5 0.25\n")
    (root / "data.yaml").write_text(data_yaml)
    return DataConfig(name="yolo", root=str(root))


def test_roboflow_s_folders_are_read(tmp_path: Path) -> None:
    config = roboflow(tmp_path)
    for split in ("train", "val"):
        data = open_split(config, split)
        assert names(data) == ["1.jpg", "7.jpg", "9.jpg"] and dataset_info.class_counts(data) == [0, 1]
        assert Path(dataset_info.path(data, 0)) == tmp_path / ("train" if split == "train" else "valid") / "images/1.jpg"


@pytest.mark.parametrize(
    "told",
    ["train: a/images/b", "path: a\ntrain: images/b", "path: ../elsewhere\ntrain: a/images/b", "train: ./a/images/b/"],
)
def test_the_folder_that_data_yaml_names_is_read_with_the_labels_beside_it(tmp_path: Path, told: str) -> None:
    images(tmp_path / "a/images/b")
    (tmp_path / "a/labels/b").mkdir(parents=True)
    (tmp_path / "a/labels/b/7.txt").write_text("0 0.5 0.5 0.5 0.25\n")
    (tmp_path / "data.yaml").write_text(f"{told}\nnames: [cat, dog]\n")
    assert dataset_info.class_counts(open_split(DataConfig(name="yolo", root=str(tmp_path)), "train")) == [1, 0]


@pytest.mark.parametrize(
    "told", ["train: ../../etc", "train: /etc", "train: [a, b]", "train: {a: b}", "train: ''", "train: train.txt"]
)
def test_a_folder_of_data_yaml_outside_the_root_or_none_is_not_opened(tmp_path: Path, told: str) -> None:
    (tmp_path / "data.yaml").write_text(f"{told}\nnames: [cat, dog]\n")
    with pytest.raises(UserError, match=r"images/train: there is no such folder, nor .*train/images, nor one that data\.yaml"):
        open_split(DataConfig(name="yolo", root=str(tmp_path)), "train")


def test_links_are_followed_and_each_folder_is_read_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    config = yolo(root)
    images(elsewhere, names=["x", "y"])
    (elsewhere / "back").symlink_to(root)
    folder, labels = root / "images/train", root / "labels/train"
    (folder / "more").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (folder / "up").symlink_to("..")
    (folder / "itself").symlink_to(".")
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        images(folder / name)
    (labels / "again").mkdir()
    (labels / "again/x.txt").write_text("0 0.5 0.5 0.5 0.25\n")
    data = open_split(config, "train")
    assert names(data) == ["1.png", "7.png", "9.png", "x.png", "y.png"] and dataset_info.class_counts(data) == [1, 1]
    assert len(list(files_below(folder))) == 5


@pytest.mark.parametrize("name", ["9.TXT", "9.Txt"])
def test_a_label_file_may_have_its_suffix_in_capitals(tmp_path: Path, name: str) -> None:
    config = yolo(tmp_path)
    (tmp_path / "labels/train/9.txt").rename(tmp_path / "labels/train" / name)
    assert dataset_info.class_counts(open_split(config, "train")) == [0, 1]


def test_the_names_of_classes_that_labelimg_writes_beside_labels_are_pointed_at(tmp_path: Path) -> None:
    config = yolo(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "labels/train/classes.txt")
    with pytest.raises(UserError, match=r"no data\.yaml\. Copy .*labels/train/classes\.txt there"):
        open_split(config, "train")


def test_a_pipe_or_a_device_that_has_the_name_of_an_image_is_not_waited_for(tmp_path: Path) -> None:
    config = yolo(tmp_path)
    (tmp_path / "images/train/1.png").unlink()
    os.mkfifo(tmp_path / "images/train/1.png")
    (tmp_path / "images/train/7.png").unlink()
    (tmp_path / "images/train/7.png").symlink_to("/dev/zero")
    data = open_split(config, "train")
    for place in (0, 1):
        with pytest.raises(BadSample, match=r"[17]\.png: it cannot be read: not a regular file"):
            data[place]


# -- COCO


def test_an_image_that_is_listed_under_two_ids_is_reported(tmp_path: Path) -> None:
    (note,) = dataset_info.notes(open_split(coco(tmp_path, ("images", 2, "file_name", "1.png")), "train"))
    assert "1 images are listed again under other ids" in note


def test_roboflow_s_json_of_the_validation_split_is_found(tmp_path: Path) -> None:
    config = coco(tmp_path)
    (tmp_path / "train").rename(tmp_path / "valid")
    (tmp_path / "instances_train.json").rename(tmp_path / "valid/_annotations.coco.json")
    assert len(open_split(config, "val")) == 3


def test_a_path_within_the_root_may_climb(tmp_path: Path) -> None:
    data = open_split(coco(tmp_path, ("images", 1, "file_name", "../train/7.png")), "train")
    assert data[1]["image"].shape == (3, 48, 24)


# -- EXIF


@pytest.mark.parametrize("format_of", ["voc", "coco"])
def test_boxes_for_the_stored_pixels_of_a_rotated_photograph_are_reported_with_exif_and_a_remedy(
    tmp_path: Path, format_of: str
) -> None:
    if format_of == "voc":
        config, image = voc(tmp_path, voc_xml(), suffix=".jpg"), tmp_path / "JPEGImages/7.jpg"
    else:
        config = coco(tmp_path, ("images", 1, "file_name", "7.jpg"))
        image = tmp_path / "train/7.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 48)).save(image, format="JPEG", exif=exif)
    data = open_split(config, "train")
    place = names(data).index("7.jpg")
    with pytest.raises(BadSample) as caught:
        data[place]
    assert "the image is 48 x 24 pixels, but its annotations are for 24 x 48, its stored pixels: its EXIF" in str(caught.value)
    assert "exiftool -Orientation=" in str(caught.value) and "\n" not in str(caught.value)
    Image.new("RGB", (48, 24)).save(image, format="JPEG", exif=exif)  # annotated as it is seen
    assert data[place]["image"].shape == (3, 48, 24)


def test_an_absent_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    config = voc(tmp_path, f"<annotation>{voc_object('dog', 3, 5, 40, 24)}</annotation>", suffix=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 48)).save(tmp_path / "JPEGImages/7.jpg", format="JPEG", exif=exif)
    assert open_split(config, "train")[0]["boxes"].tolist() == [[2, 4, 40, 24]]
