"""Names and exports of more tools: accents stored in two ways, keypoints, lists in `data.yaml`, titles and paths of Windows."""

import gzip
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from phalanx.configs.errors import UserError
from phalanx.configs.sections.data import DataConfig
from phalanx.data import dataset_info
from phalanx.data.images.decoding import read_image, read_mask
from phalanx.data.images.image_header import read_header
from phalanx.data.inspect.check import check_part
from phalanx.data.open import open_split
from tests.data.annotations import coco, images, voc, voc_object, voc_xml, yolo
from tests.data.image_files import chunk, encoded, png
from tests.data.pictures import config, image_folder, masks, picture, save
from tests.data.test_mnist_and_cifar import write_mnist

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
FORMS = [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)]


# -- accents


@pytest.mark.parametrize(("stored", "written"), FORMS)
def test_accents_stored_in_two_ways_are_one_name(tmp_path: Path, stored: str, written: str) -> None:
    assert len(open_split(voc(tmp_path / "voc", voc_xml(), stored, listed=written), "train")) == 1
    told = coco(tmp_path / "coco", ("images", 1, "file_name", f"{written}.png"))
    (tmp_path / "coco/train/7.png").rename(tmp_path / f"coco/train/{stored}.png")
    assert open_split(told, "train")[1]["boxes"].shape == (2, 4)
    labelled = yolo(tmp_path / "yolo")
    (tmp_path / "yolo/images/train/9.png").rename(tmp_path / f"yolo/images/train/{stored}.png")
    (tmp_path / "yolo/labels/train/9.txt").rename(tmp_path / f"yolo/labels/train/{written}.txt")
    assert dataset_info.class_counts(open_split(labelled, "train")) == [0, 1] and not dataset_info.notes(
        open_split(labelled, "train")
    )
    masks(tmp_path / "masks", train=1)
    (tmp_path / "masks/images/train/0.jpg").rename(tmp_path / f"masks/images/train/{stored}.jpg")
    (tmp_path / "masks/masks/train/0.png").rename(tmp_path / f"masks/masks/train/{written}.png")
    assert len(open_split(config("masks", tmp_path / "masks"), "train")) == 1
    for split, name in (("train", stored), ("val", written)):
        image_folder(tmp_path / "folder", (2, 2), split)
        (tmp_path / f"folder/{split}/class-1").rename(tmp_path / f"folder/{split}/{name}")
    data = open_split(config("image_folder", tmp_path / "folder"), "val")
    assert data.classes == (stored, "class-0") and data[0]["image"].shape == (3, 16, 20)
    save(picture(1), tmp_path / f"list/{stored}.png")
    (tmp_path / "list/train.csv").write_text(f"{written}.png,a\nb.png,b\n")
    assert open_split(config("list", tmp_path / "list"), "train")[0]["target"] == 0


# -- YOLO


@pytest.mark.parametrize(
    ("shape", "values"), [("[2, 2]", "0.1 0.1 0.9 0.9"), ("[2, 3]", "0.1 0.1 1 0.9 0.9 2"), ("[1, 3]", "0 0 0")]
)
def test_keypoints_are_no_polygon(tmp_path: Path, shape: str, values: str) -> None:
    told = yolo(tmp_path, f"1 0.5 0.5 0.5 0.25 {values}\n0 0.5 0.5 1 1\n", f"names: [cat, dog]\nkpt_shape: {shape}\n")
    assert open_split(told, "train")[2]["boxes"].tolist() == [[8, 12, 24, 20], [0, 0, 32, 32]]
    (tmp_path / "labels/train/9.txt").write_text("1 0.5 0.5 0.5 0.25 0.1 0.1\n")
    with pytest.raises(UserError, match=r"9\.txt: line 1: a class and 6 numbers, but kpt_shape of data\.yaml makes it 4"):
        open_split(told, "train")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: 17\n")
    with pytest.raises(UserError, match=r"data\.yaml: kpt_shape is '17'\. Write the number of keypoints and 2 or 3"):
        open_split(told, "train")


PAIRS, TRIPLES = "0.5 0.5 0.5 0.25 0.3 0.45 0.7 0.6", "0.5 0.5 0.5 0.25 0.3 0.45 2 0 0 0"


@pytest.mark.parametrize("line", [PAIRS, f"{PAIRS} 0 0", TRIPLES, "0.5 0.5 0.5 0.25 0.3 0.45 1", "0.5 0.5 0.5 0.25 0.8 0.9 2"])
def test_keypoints_without_kpt_shape_are_known_by_boxes_that_hold_them_and_said(tmp_path: Path, line: str) -> None:
    told = yolo(tmp_path, f"1 {line}\n0 {line}\n")
    data = open_split(told, "train")
    assert data[2]["boxes"].tolist() == [[8, 12, 24, 20]] * 2
    (said,) = dataset_info.notes(data)
    assert f"its {len(line.split()) - 4} last numbers are taken for keypoints. If they are polygons" in said
    images(tmp_path / "images/val", names=(1,))
    (tmp_path / "labels/val").mkdir()
    (tmp_path / "labels/val/1.txt").write_text(f"1 {line.rsplit(' ', 2)[0] if line == PAIRS else line}\n")
    if line == PAIRS:  # one keypoint less: as training has it, or refused
        with pytest.raises(UserError, match=r"1\.txt: line 1: a class and 6 numbers"):
            open_split(told, "val")


@pytest.mark.parametrize(
    "lines",
    [
        [PAIRS, "0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2"],  # the second holds no point of its own
        [PAIRS, "0.5 0.5 0.5 0.25 0.3 0.45"],  # of another length
        [PAIRS, "0.5 0.5 0.5 0.25"],
        ["0.8 0.8 0.9 0.8 0.9 0.9 0.8 0.9"],  # a box that would reach out of the image
        ["0.5 0.5 0.5 0.25 0.3 0.45 0.6 0.5 0.6 0.55"],
    ],
)
def test_lines_that_are_not_all_boxes_with_points_are_polygons(tmp_path: Path, lines: list[str]) -> None:
    if len(lines) == 1 and len(lines[0].split()) == 10:
        told = yolo(tmp_path, f"1 {lines[0]}\n", "names: [cat, dog]\nkpt_shape: [0, 2]\n")
    else:
        told = yolo(tmp_path, "".join(f"1 {line}\n" for line in lines))
    data = open_split(told, "train")
    values = [float(value) for value in lines[0].split()]
    left, top, right, bottom = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    assert data[2]["boxes"][0].tolist() == pytest.approx([32 * side for side in (left, top, right, bottom)])
    assert not dataset_info.notes(data)


def _lists(root: Path, text: str, told: str = "train: train.txt") -> DataConfig:
    for folder in ("a", "b"):
        images(root / "images" / folder)
        (root / "labels" / folder).mkdir(parents=True)
        (root / f"labels/{folder}/7.txt").write_text("0 0.5 0.5 0.5 0.25\n")
    (root / "train.txt").write_text(text)
    (root / "data.yml").write_text(f"{told}\nnames: [cat, dog]\n")
    return DataConfig(name="yolo", root=str(root))


@pytest.mark.parametrize(
    ("text", "told", "count"),
    [
        ("images/a/7.png\n./images/b/9.png\r\n\n", "train: train.txt", 2),
        ("images\\a\\7.png\n", "path: ../datasets/mine\ntrain: ./train.txt", 1),
        ("", "train: [images/a, images/b]", 6),
        ("images/b/7.png\n", "train:\n- images/a\n- train.txt", 4),
    ],
)
def test_lists_and_several_folders_of_data_yaml_are_read(tmp_path: Path, text: str, told: str, count: int) -> None:
    data = open_split(_lists(tmp_path, text, told), "train")
    assert len(data) == count and dataset_info.class_counts(data) == [2 if count > 2 else 1, 0] and not dataset_info.notes(data)
    assert all(data[number]["image"].shape[0] == 3 for number in range(count))


def test_a_list_of_data_yaml_that_leads_out_or_nowhere_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"")
    for text in (
        "images/a/7.png\n../secret.png\n",
        "images/a/7.png\nimages/a/8.png\n",
        f"images/a/7.png\n{tmp_path}/secret.png",
    ):
        with pytest.raises(UserError, match=r"train\.txt: line 2: there is no file .* in "):
            open_split(_lists(tmp_path / str(len(text)), text), "train")
    with pytest.raises(UserError, match=r"train\.txt: the list has no images"):
        open_split(_lists(tmp_path / "empty", "\n"), "train")
    (said,) = dataset_info.notes(open_split(_lists(tmp_path / "twice", "images/a/7.png\n" * 2), "train"))
    assert "1 of 2 images are listed again" in said


def test_labels_without_images_and_formats_that_are_not_read_are_reported(tmp_path: Path) -> None:
    told = yolo(tmp_path)
    (tmp_path / "labels/train/IMG_1.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    (tmp_path / "images/train/IMG_1.heic").write_bytes(b"x")
    left_out, alone = dataset_info.notes(open_split(told, "train"))
    assert "(1 .heic)" in left_out and "IMG_1.txt: there is no image of this name. 1 of 2 label files" in alone


def test_yolo_without_any_folder_of_labels_pixels_and_blanks_in_names_are_reported(tmp_path: Path) -> None:
    told = yolo(tmp_path / "a", "1 12 20 5 6\n", "names: [cat, dog]")
    with pytest.raises(UserError, match="Write shares of the image's sides, from 0 to 1, instead of pixels"):
        open_split(told, "train")
    (tmp_path / "a/labels/train/9.txt").unlink()
    (tmp_path / "a/labels/train").rmdir()
    assert dataset_info.class_counts(open_split(told, "train")) == [
        0,
        0,
    ]  # refused before the first step
    with pytest.raises(UserError, match=r"names has 'cat ' twice"):
        open_split(yolo(tmp_path / "b", names="names: [cat, 'cat ']"), "train")


# -- VOC and COCO


@pytest.mark.parametrize("listed", ["JPEGImages\\7.png\n", "JPEGImages/7.png\n", ".\\7\n"])
def test_a_list_of_voc_may_hold_paths(tmp_path: Path, listed: str) -> None:
    assert len(open_split(voc(tmp_path, voc_xml(), listed=listed), "train")) == 1


@pytest.mark.parametrize(
    "line", ["./JPEGImages/7.png ./Annotations/7.xml", "7.jpg\t7.xml", "JPEGImages/7.png,Annotations/7.xml"]
)
def test_a_list_of_voc_with_two_paths_a_line_is_refused_with_what_to_write(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"train\.txt: line 2 has two paths, .*7\.xml'.* Write the image's name alone"):
        open_split(voc(tmp_path, voc_xml(), listed=f"7\n{line}\n"), "train")


def test_a_line_break_in_the_name_of_an_image_breaks_no_sentence(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "data", (2, 2))
    (root / "train/class-0/a\nb.png").write_bytes(b"")
    dataset = open_split(config("image_folder", root), "train")
    with pytest.raises(UserError, match=r"class-0/a\\nb\.png: the file is empty\. Replace it") as caught:
        [dataset[number] for number in range(len(dataset))]
    assert "\n" not in str(caught.value)
    (problem,) = check_part(dataset, config("image_folder", root, check="quick"), 0, 1, lambda: None)
    assert "\n" not in problem.sentence(5)


def test_voc_2007_lines_that_come_again_and_names_on_several_lines(tmp_path: Path) -> None:
    voc(tmp_path / "VOCdevkit/VOC2007", voc_xml(voc_object("traffic\n   light", 3, 5, 12, 24)), listed="7\n7\n")
    data = open_split(DataConfig(name="voc", root=str(tmp_path)), "train")
    assert data.classes == ("traffic light",)
    assert "train.txt: 1 of its 2 lines repeat an image" in dataset_info.notes(data)[0]
    with pytest.raises(UserError, match=r"train\.txt: line 1: .* leads out of the dataset"):
        open_split(voc(tmp_path / "out", voc_xml(), listed="..\\..\\7\n"), "train")


def test_coco_s_images_are_found_below_images_and_by_names_from_the_root(tmp_path: Path) -> None:
    whole = [("images", place, "file_name", f"train/{name}.png") for place, name in enumerate((1, 7, 9))]
    told = coco(tmp_path, *whole, ("categories", 0, "name", " cat"))
    data = open_split(told, "train")
    assert data.classes == ("cat", "cat") and data[1]["boxes"].shape == (2, 4)
    assert "the categories 3 and 44 are both named cat" in dataset_info.notes(data)[0]
    (tmp_path / "images").mkdir()
    (tmp_path / "train").rename(tmp_path / "images/train")
    for place, name in enumerate((1, 7, 9)):
        whole[place] = ("images", place, "file_name", f"{name}.png")
    coco(tmp_path / "other", *whole)
    (tmp_path / "instances_train.json").write_bytes((tmp_path / "other/instances_train.json").read_bytes())
    assert open_split(DataConfig(name="coco", root=str(tmp_path)), "train")[1]["boxes"].shape == (2, 4)


# -- folders of classes


def test_what_is_odd_in_folders_of_classes_is_reported(tmp_path: Path) -> None:
    image_folder(tmp_path, (2, 2))
    save(picture(1), tmp_path / "train/stray.png")
    for name in ("@Recently-Snapshot", "#snapshot", "Network Trash Folder", "RECYCLER"):
        save(picture(1), tmp_path / "train" / name / "0.png")
    data = open_split(config("image_folder", tmp_path), "train")
    assert (
        data.classes == ("class-0", "class-1") and "train/ has 1 images beside its class folders" in dataset_info.notes(data)[0]
    )
    (tmp_path / "nested").mkdir()
    (tmp_path / "train").rename(tmp_path / "nested/inner")
    (tmp_path / "nested/inner/stray.png").unlink()
    with pytest.raises(UserError, match=r"nested: its only folder is inner, and the folders class-0, class-1 are in that one"):
        open_split(config("image_folder", tmp_path, train_split="nested"), "train")
    (tmp_path / "nested/inner/class-0").rename(tmp_path / "nested/inner/a\x1b[31m")
    with pytest.raises(UserError, match=r"the name of its folder 'a\\x1b\[31m' has a control character"):
        open_split(config("image_folder", tmp_path, train_split="nested/inner"), "train")


@pytest.mark.parametrize("made", [image_folder, masks])
def test_the_validation_split_may_be_called_valid(tmp_path: Path, made: Callable[..., Any]) -> None:
    if made is image_folder:
        image_folder(tmp_path)
        image_folder(tmp_path, split="valid")
    else:
        masks(tmp_path)
        for what in ("images", "masks"):
            (tmp_path / what / "val").rename(tmp_path / what / "valid")
    assert len(open_split(config(made.__name__, tmp_path), "val")) > 0


# -- lists


@pytest.mark.parametrize(
    "title", ["image_id,label", "file_name,class", "Image,Id", "x,y", "# path,label", "pictures,target", '"img","tags"']
)
def test_a_title_in_any_words_is_no_sample(tmp_path: Path, title: str) -> None:
    (tmp_path / "train.csv").write_text(f"{title}\na.png,cat\n\nb.png,dog\n")
    data = open_split(config("list", tmp_path), "train")
    assert data.classes == ("cat", "dog") and len(data) == 2


def test_lines_of_a_list_are_read_as_they_are_meant_or_reported(tmp_path: Path) -> None:
    save(picture(1), tmp_path / "images/a.png")
    file = tmp_path / "train.csv"
    file.write_text('images\\a.png,"big, cat"\nimages\\b.png,dog\n')
    data = open_split(config("list", tmp_path), "train")
    assert data.classes == ("big, cat", "dog") and data[0]["image"].shape == (3, 16, 20)
    file.write_text("a.png,cat\nb.png,dog\na.png,dog\n")
    (said,) = dataset_info.notes(open_split(config("list", tmp_path), "train"))
    assert "1 lines repeat an image" in said and "1 images have several classes, such as a.png" in said
    for text, wrong in (
        ("label,path\ncat,a.png\n", "line 1 names the columns label and path. Write the path first"),
        ("a.png,cat\n\n\nb.png\n", "line 4 has 1 field"),
        ("a.png,cat\n\nb.png,\n", "line 3 has no label"),
        ("a.png,c\x1bat\nb.png,dog\n", r"the label 'c\x1bat' has a control character"),
    ):
        file.write_text(text)
        with pytest.raises(UserError) as caught:
            open_split(config("list", tmp_path), "train")
        assert wrong in str(caught.value)


# -- files


def test_a_mask_is_turned_as_its_own_exif_says(tmp_path: Path) -> None:
    numbers = numpy.arange(12, dtype=numpy.uint8).reshape(3, 4)
    for orientation, meant in ((3, numpy.rot90(numbers, 2)), (6, numpy.rot90(numbers, -1))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind in ("PNG", "TIFF"):
            (tmp_path / "mask").write_bytes(encoded(numbers, kind, exif=exif))
            assert numpy.array_equal(read_mask(str(tmp_path / "mask")).numpy(), meant)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_png_with_megabytes_of_text_or_of_a_profile_is_read(tmp_path: Path, kind: bytes) -> None:
    long = chunk(kind, b"history\0\0" + zlib.compress(b"x" * 3_000_000))
    (tmp_path / "a.png").write_bytes(png(2, 2, 8, 0, bytes([1, 2, 3, 4]), long))
    assert read_image(str(tmp_path / "a.png"), "grey").flatten().tolist() == [1, 2, 3, 4]
    assert read_mask(str(tmp_path / "a.png")).flatten().tolist() == [1, 2, 3, 4]
    (tmp_path / "a.png").write_bytes(png(2, 2, 8, 0, bytes(4), chunk(kind, b"bomb\0\0" + zlib.compress(bytes(80 << 20)))))
    with pytest.raises(UserError, match="this PNG cannot be decoded"):
        read_image(str(tmp_path / "a.png"), "grey")


@pytest.mark.parametrize("name", [b"xmp", b"exif", b"transparency", b"icc_profile", b"gamma", b"dpi"])
def test_a_text_of_a_png_may_have_any_name(tmp_path: Path, name: bytes) -> None:
    for file in ("before", "after"):
        content, text = png(2, 2, 8, 0, bytes([1, 2, 3, 4])), chunk(b"tEXt", name + b"\0tiff:Orientation=6")
        place = 33 if file == "before" else len(content) - 12  # after the header, or before the end
        (tmp_path / file).write_bytes(content[:place] + text + content[place:])
        for mode in ("grey", "rgba"):
            assert read_image(str(tmp_path / file), mode)[0].flatten().tolist() == [1, 2, 3, 4]  # type: ignore[arg-type]
        assert read_mask(str(tmp_path / file)).flatten().tolist() == [1, 2, 3, 4]
        header = read_header(tmp_path / file)
        assert header is not None and header.upright == (2, 2)


def test_mnist_is_read_as_torchvision_and_kaggle_lay_it_out(tmp_path: Path) -> None:
    write_mnist(tmp_path, [3, 0, 9])
    files = [tmp_path / f"train-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
    (tmp_path / "k/train-images-idx3-ubyte").mkdir(parents=True)
    (tmp_path / "k/train-images-idx3-ubyte/train-images-idx3-ubyte").write_bytes(gzip.decompress(files[0].read_bytes()))
    (tmp_path / "k/train-labels.idx1-ubyte").write_bytes(gzip.decompress(files[1].read_bytes()))
    (tmp_path / "t/MNIST/raw").mkdir(parents=True)
    for file in files:
        file.rename(tmp_path / "t/MNIST/raw" / file.name)
    for root in ("k", "t"):
        assert dataset_info.labels(open_split(config("mnist", tmp_path / root), "train")).tolist() == [3, 0, 9]
