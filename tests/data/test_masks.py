"""Images with masks: plain ones, and the formats of VOC, Cityscapes and ADE20K."""

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.bad_sample import BadSample
from phalanx.data.formats import ade20k, cityscapes, voc
from phalanx.data.open import open_split
from tests.data.pictures import config, masks, picture, save


def grey(rows: list[list[int]]) -> Image.Image:
    return Image.fromarray(numpy.array(rows, numpy.uint8))


def test_an_image_goes_with_the_mask_of_its_name(tmp_path: Path) -> None:
    masks(tmp_path)
    dataset = open_split(config("masks", tmp_path), "train")
    assert (len(dataset), dataset.classes, dataset.kind) == (4, ("road", "tree", "car"), "segmentation")
    for i in range(4):
        sample = dataset[i]
        expected = numpy.array(Image.open(tmp_path / f"masks/train/{i}.png"))
        assert sample["mask"].dtype == torch.uint8 and numpy.array_equal(sample["mask"].numpy(), expected)
        assert sample["image"].shape == (3, 16, 20)
    assert sum(dataset_info.class_counts(dataset)) == 4 * 16 * 20


def test_a_list_names_image_and_mask(tmp_path: Path) -> None:
    masks(tmp_path)
    (tmp_path / "some.csv").write_text("image,mask\nimages/train/2.jpg,masks/train/2.png\nimages/val/0.jpg,masks/val/0.png\n")
    dataset = open_split(config("masks", tmp_path, train_split="some"), "train")
    assert len(dataset) == 2 and dataset_info.path(dataset, 0).endswith("images/train/2.jpg")
    assert torch.equal(dataset[0]["mask"], open_split(config("masks", tmp_path), "train")[2]["mask"])


def test_pixels_to_ignore_count_for_nothing(tmp_path: Path) -> None:
    masks(tmp_path, train=0)
    save(picture(1, 3, 2), tmp_path / "images/train/a.png")
    save(grey([[0, 1, 9], [9, 2, 2]]), tmp_path / "masks/train/a.png")
    dataset = open_split(config("masks", tmp_path, ignore_index=9), "train")
    assert dataset[0]["mask"].tolist() == [[0, 1, 9], [9, 2, 2]]
    assert dataset_info.class_counts(dataset) == [1, 1, 2]
    far = open_split(config("masks", tmp_path, ignore_index=9), "train", 1)
    assert far[0]["mask"].dtype == torch.uint8


def test_a_class_out_of_range_is_reported_with_the_file(tmp_path: Path) -> None:
    masks(tmp_path)
    save(grey([[14] * 20] * 16), tmp_path / "masks/train/3.png")
    dataset = open_split(config("masks", tmp_path), "train")
    with pytest.raises(BadSample) as raised:
        dataset[3]
    assert str(raised.value) == (
        f"{tmp_path}/masks/train/3.png: class 14, but classes.txt names 3 (0 to 2). "
        "Set data.ignore_index=14, or correct classes.txt."
    )
    assert int(open_split(config("masks", tmp_path, ignore_index=14), "train")[3]["mask"].min()) == 14


def test_a_mask_of_another_size_is_reported(tmp_path: Path) -> None:
    masks(tmp_path)
    save(grey([[0] * 10] * 16), tmp_path / "masks/val/1.png")
    with pytest.raises(BadSample, match=r"masks/val/1\.png: the mask is 10 x 16 pixels, but the image .*1\.jpg is 20 x 16"):
        open_split(config("masks", tmp_path), "val")[1]


def test_a_mask_of_the_stored_pixels_of_a_rotated_photograph_is_reported_as_such(tmp_path: Path) -> None:
    masks(tmp_path)
    turned = Image.Exif()
    turned[0x112] = 6
    picture(1).save(tmp_path / "images/val/1.jpg", exif=turned)
    with pytest.raises(BadSample, match=r"1\.jpg is 16 x 20, rotated by 90 degrees by its EXIF orientation.*exiftool"):
        open_split(config("masks", tmp_path), "val")[1]


def test_files_that_are_alone_are_reported(tmp_path: Path) -> None:
    masks(tmp_path)
    (tmp_path / "masks/train/1.png").unlink()
    with pytest.raises(UserError, match=r"images/train/1\.jpg: this image has no mask of the same name\. 1 files are alone"):
        open_split(config("masks", tmp_path), "train")
    (tmp_path / "images/train/0.jpg").unlink()
    with pytest.raises(UserError, match=r"masks/train/0\.png: this mask has no image of the same name\. 2 files are alone"):
        open_split(config("masks", tmp_path), "train")
    with pytest.raises(UserError, match=r"images/test: there is no such folder"):
        open_split(config("masks", tmp_path, val_split="test"), "val")
    (tmp_path / "images/none").mkdir()
    (tmp_path / "masks/none").mkdir()
    with pytest.raises(UserError, match=r"images/none: there are no images in it"):
        open_split(config("masks", tmp_path, val_split="none"), "val")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"classes\.txt: there is no such file"):
        open_split(config("masks", tmp_path), "train")


def test_masks_are_divided_too(tmp_path: Path) -> None:
    masks(tmp_path, train=6)
    parts = [open_split(config("masks", tmp_path, fold="1/3"), split) for split in ("train", "val")]
    files = [{dataset_info.path(part, i) for i in range(len(part))} for part in parts]
    assert [len(part) for part in parts] == [4, 2] and not files[0] & files[1]
    whole = open_split(config("masks", tmp_path), "train")
    total = numpy.sum([dataset_info.class_counts(part) for part in parts], axis=0)
    assert total.tolist() == dataset_info.class_counts(whole)


def test_voc_reads_the_numbers_of_the_palette(tmp_path: Path) -> None:
    numbers = numpy.array([[0, 15, 255], [20, 1, 255]], numpy.uint8)
    mask = Image.new("P", (3, 2))
    mask.putdata(numbers.flatten().tolist())
    mask.putpalette([i // 3 for i in range(768)])
    root = tmp_path / "VOCdevkit/VOC2012"
    save(mask, root / "SegmentationClass/2007_1.png")
    save(picture(1, 3, 2), root / "JPEGImages/2007_1.jpg")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_1\n")
    dataset = open_split(config("voc", tmp_path), "train")
    assert len(dataset.classes) == 21 and dataset.classes[15] == "person"
    assert dataset[0]["mask"].tolist() == numbers.tolist()
    assert open_split(config("voc", root, ignore_index=200), "train")[0]["mask"].tolist() == [[0, 15, 200], [20, 1, 200]]
    (root / "ImageSets/Segmentation/val.txt").write_text("2007_1\n2007_2\n")
    with pytest.raises(UserError, match=r"SegmentationClass/2007_2\.png: there is no such file.*1 of 2 pairs"):
        open_split(config("voc", tmp_path), "val")
    with pytest.raises(UserError, match=r"Segmentation/test\.txt: there is no such file"):
        open_split(config("voc", tmp_path, val_split="test"), "val")


def test_cityscapes_has_the_19_classes_of_its_benchmark(tmp_path: Path) -> None:
    name = "ulm/ulm_000000_000019"
    save(picture(1, 3, 2), tmp_path / f"leftImg8bit/train/{name}_leftImg8bit.png")
    save(grey([[7, 8, 0], [33, 26, 9]]), tmp_path / f"gtFine/train/{name}_gtFine_labelIds.png")
    dataset = open_split(config("cityscapes", tmp_path), "train")
    assert len(dataset.classes) == len(cityscapes.CLASSES) == 19
    assert dataset[0]["mask"].tolist() == [[0, 1, 255], [18, 13, 255]]
    assert [dataset.classes[i] for i in (0, 1, 18, 13)] == ["road", "sidewalk", "bicycle", "car"]
    (tmp_path / f"gtFine/train/{name}_gtFine_labelIds.png").unlink()
    with pytest.raises(UserError, match=r"_gtFine_labelIds\.png: there is no such file"):
        open_split(config("cityscapes", tmp_path), "train")
    with pytest.raises(UserError, match=r"leftImg8bit/val: there are no images"):
        open_split(config("cityscapes", tmp_path), "val")


def test_ade20k_counts_from_one(tmp_path: Path) -> None:
    root = tmp_path / "ADEChallengeData2016"
    save(picture(1, 3, 2), root / "images/validation/ADE_val_1.jpg")
    save(grey([[1, 0, 150], [13, 1, 2]]), root / "annotations/validation/ADE_val_1.png")
    dataset = open_split(config("ade20k", tmp_path), "val")
    assert len(dataset.classes) == len(set(ade20k.CLASSES)) == 150 and dataset.classes[12] == "person"
    assert dataset[0]["mask"].tolist() == [[0, 255, 149], [12, 0, 1]]
    save(grey([[1, 0, 151], [13, 1, 2]]), root / "annotations/validation/ADE_val_1.png")
    with pytest.raises(BadSample, match=r"class 151, but ADE20K has 150"):
        dataset[0]
    with pytest.raises(UserError, match=r"images/training: there are no images"):
        open_split(config("ade20k", tmp_path), "train")


def test_the_names_of_classes_are_all_different() -> None:
    assert len(set(voc.CLASSES)) == 21 and len(set(cityscapes.CLASSES)) == 19
