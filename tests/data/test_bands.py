"""Images of any number of bands: what is read, what of it is float, and what is refused by name."""

import io
import json
from pathlib import Path

import numpy
import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.data.bad_sample import Unreadable
from phalanx.data.images.cache import Cache
from phalanx.data.images.decoding import read_image
from phalanx.data.open import open_split
from tests.data.pictures import config, image_folder, picture, save
from tests.support.running import DIGITS, lines, phalanx

RANDOM = numpy.random.default_rng(0)


def array(path: Path, *shape: int, kind: str = "uint16") -> numpy.ndarray:
    values = (RANDOM.random(shape) * 200).astype(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    numpy.save(path, values)
    return values


READ = {
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    ">u2": torch.uint16,
    **dict.fromkeys(("int16", "uint32", "float16", "float64"), torch.float32),
}


@pytest.mark.parametrize(("kind", "read"), READ.items())
def test_an_array_keeps_its_bands_and_numbers(tmp_path: Path, kind: str, read: torch.dtype) -> None:
    values = array(tmp_path / "a.npy", 5, 6, 7, kind=kind)
    found = read_image(str(tmp_path / "a.npy"), "bands")
    assert found.dtype == read and found.shape == (7, 5, 6)
    numpy.testing.assert_array_equal(
        found.numpy(), values.transpose(2, 0, 1).astype("float32" if read.is_floating_point else kind)
    )
    grey = array(tmp_path / "grey.npy", 5, 6, kind=kind)
    found = read_image(str(tmp_path / "grey.npy"), "bands")
    numpy.testing.assert_array_equal(found.numpy()[0], grey.astype("float32" if read.is_floating_point else kind))


@pytest.mark.parametrize("how", ["samples", "planes", "pages"])
def test_a_tiff_keeps_its_bands_wherever_they_are(tmp_path: Path, how: str) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = (RANDOM.random((7, 8, 9)) * 60000).astype("uint16")  # [bands, H, W]
    path = str(tmp_path / "a.tif")
    if how == "samples":
        tifffile.imwrite(path, values.transpose(1, 2, 0), photometric="minisblack", planarconfig="contig")
    elif how == "planes":
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig="separate")
    else:
        tifffile.imwrite(path, values, photometric="minisblack")
    found = read_image(path, "bands")
    assert found.dtype == torch.uint16
    numpy.testing.assert_array_equal(found.numpy(), values)


def test_other_images_keep_the_channels_that_they_have(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        save(picture(0, 9, 8), tmp_path / name)
        assert torch.equal(read_image(str(tmp_path / name), "bands"), read_image(str(tmp_path / name), "rgb"))


def _file(**shapes: object) -> bytes:
    file = io.BytesIO()
    numpy.save(file, **shapes)  # type: ignore[arg-type]
    return file.getvalue()


BROKEN = {
    "shape": (_file(arr=numpy.zeros((2, 3, 4, 5))), r"it has the shape \[2, 3, 4, 5\]"),
    "objects": (_file(arr=numpy.array([[{}, {}]], dtype=object)), "Python objects, which are never unpickled"),
    "words": (_file(arr=numpy.array([["a", "b"], ["c", "d"]])), "which are no numbers of an image"),
    "cut": (_file(arr=numpy.zeros((9, 9, 3)))[:-7], "this NumPy array cannot be read"),
    "nan": (_file(arr=numpy.full((3, 3), numpy.nan)), "NaN or infinity"),
    "tiff": (b"II*\0" + b"\0" * 40, "this TIFF cannot be"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    content, sentence = BROKEN[name]
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(Unreadable, match=sentence):
        read_image(str(tmp_path / "a.npy"), "bands")


def test_an_array_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    array(tmp_path / "b.npy", 40, 40)
    with pytest.raises(Unreadable, match=r"data.max_pixels"):
        read_image(str(tmp_path / "b.npy"), "bands", max_pixels=100)


def test_floating_point_bands_are_cached_as_they_are(tmp_path: Path) -> None:
    array(tmp_path / "a.npy", 5, 6, 7, kind="float32")
    image, cache = read_image(str(tmp_path / "a.npy"), "bands"), Cache(str(tmp_path / "cache"))
    first = cache.get(str(tmp_path / "a.npy"), "bands", lambda: image)
    again = cache.get(str(tmp_path / "a.npy"), "bands", lambda: torch.zeros(1))
    assert torch.equal(first, image) and torch.equal(again, image)


def test_all_images_have_the_bands_of_the_first(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for place in range(4):
            array(tmp_path / f"{split}/class-{place % 2}/{place}.npy", 8, 8, 5)
    dataset = open_split(config("image_folder", tmp_path, mode="bands"), "train")
    assert len(dataset) == 4 and dataset.channels == 5 == len(dataset.mean) and dataset[0]["image"].shape == (5, 8, 8)
    array(tmp_path / "train/class-1/3.npy", 8, 8, 4)
    with pytest.raises(Unreadable, match="this image has 4 bands, and the first one has 5"):
        dataset[3]


def test_floating_point_bands_need_their_mean_and_deviation(tmp_path: Path) -> None:
    for place in range(4):
        array(tmp_path / f"train/class-{place % 2}/{place}.npy", 8, 8, 5, kind="float32")
    with pytest.raises(UserError, match=r"Set data.mean and data.std, with 5 numbers each"):
        open_split(config("image_folder", tmp_path, mode="bands"), "train")
    five = {"mean": [100.0] * 5, "std": [50.0] * 5}
    assert open_split(config("image_folder", tmp_path, mode="bands", **five), "train").channels == 5


def test_a_network_of_five_bands_trains_evaluates_and_predicts(tmp_path: Path) -> None:
    for split, count in (("train", 16), ("val", 4)):
        for place in range(count):
            values = array(tmp_path / f"data/{split}/class-{place % 2}/{place}.npy", 20, 24, 5)
            values[..., 4] = 60000 * (place % 2)
            numpy.save(tmp_path / f"data/{split}/class-{place % 2}/{place}.npy", values)
    own = ["data.name=image_folder", f"data.root={tmp_path}/data", "data.mode=bands", "data.image_size=16", "name=bands"]
    short = ["train.steps=4", "train.global_batch=8", "train.micro_batch=4", "data.augment.shift=0"]
    phalanx("train", DIGITS, *own, *short, cwd=tmp_path)
    assert "val/top1" in lines(tmp_path / "runs/bands/metrics.jsonl")[-1]
    phalanx("predict", "runs/bands", "data/val", "-o", "seen", cwd=tmp_path)
    assert len(json.loads((tmp_path / "seen/predictions.json").read_text())) >= 1


def test_an_image_size_is_asked_for(tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    image_folder(tmp_path / "data", split="val")
    own = ["data.name=image_folder", f"data.root={tmp_path}/data", "name=sizeless"]
    recipe = tmp_path / "recipe.yaml"
    text = Path(DIGITS).read_text().splitlines()
    recipe.write_text("\n".join(line for line in text if "image_size" not in line))
    said = phalanx("train", recipe, *own, "data.augment.shift=0", cwd=tmp_path, expect=2).errors
    assert "data.image_size is not set, and images of data.name=image_folder are of any size" in said
