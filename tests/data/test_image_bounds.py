"""What an image file may ask of a decoder: formats that are meant, and no more pixels than `data.max_pixels`."""

import re
from pathlib import Path

import pytest
from PIL import Image

from phalanx.configs.errors import UserError
from phalanx.configs.load import load
from phalanx.configs.schema import digest
from phalanx.data.bad_sample import Unreadable
from phalanx.data.images.decoding import read_image, read_mask
from phalanx.data.open import open_split
from tests.data.image_files import claiming, encoded, png
from tests.data.pictures import config, image_folder, jpeg, picture
from tests.support.running import DIGITS

ROOMS = ("configs", "data", "dist", "launch", "models", "slurm", "train")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "this is a PostScript file"),
        (b"%PDF-1.4\n", "this is a PDF file"),
        (b"SIMPLE  =                    T", "this is a FITS file"),
        (encoded(picture(1), "JPEG2000"), "this is a JPEG 2000 image"),
        (encoded(picture(1), "ICO"), "this is an icon"),
        (b"\0\0\0\x18ftypheic" + bytes(90), "this is a HEIF image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "this is an SVG drawing"),
        (encoded(picture(1), "TGA"), "this file is not an image"),
        (encoded(picture(1), "PCX"), "this file is not an image"),
    ],
)
def test_only_the_formats_that_are_meant_reach_a_decoder(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for read in (lambda: read_image(str(tmp_path / "a.png"), "rgb"), lambda: read_mask(str(tmp_path / "a.png"))):
        with pytest.raises(Unreadable, match=said):
            read()


def test_nothing_of_ours_opens_an_image_of_any_format_that_pillow_knows() -> None:
    root = Path(__file__).parents[2]
    opening = [
        (path, call)
        for room in ROOMS
        for path in (root / room).rglob("*.py")
        for call in re.findall(r"Image\.open\(.*", path.read_text())
    ]
    assert opening and all("formats=" in call for _, call in opening), opening


BOMBS = {
    "JPEG": claiming(jpeg(1), 20_000, 20_000),
    "progressive JPEG": claiming(encoded(picture(1), "JPEG", progressive=True), 20_000, 20_000),
    "JPEG with padding before its frame": claiming(jpeg(1), 20_000, 20_000).replace(b"\xff\xc0", b"\xff\xff\xff\xc0"),
    "PNG": claiming(encoded(picture(1), "PNG"), 20_000, 20_000),
    "PNG of 16 bits a colour": claiming(png(2, 2, 16, 2, bytes(24)), 20_000, 20_000),
    "GIF": b"GIF89a\x20\x4e\x20\x4e\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x20\x4e\x20\x4e\0\x02\x02\x44\x01\0;",
    "PPM": b"P6 20000 20000 255\n" + bytes(99),
    "BMP": encoded(picture(1), "BMP")[:18] + (20_000).to_bytes(4, "little") * 2 + encoded(picture(1), "BMP")[26:],
}


@pytest.mark.parametrize("kind", BOMBS)
def test_no_decoder_starts_on_more_pixels_than_are_allowed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BOMBS[kind])
    for read in (lambda: read_image(str(tmp_path / "a"), "rgb"), lambda: read_mask(str(tmp_path / "a"))):
        with pytest.raises(Unreadable, match=r"20000 x 20000 = 400,000,000 pixels, and data\.max_pixels is 250,000,000"):
            read()


@pytest.mark.filterwarnings("error")
def test_the_bound_can_be_set_lower_and_above_that_of_pillow(tmp_path: Path) -> None:
    picture(1, 20, 16).save(tmp_path / "small.png")
    large = tmp_path / "large.png"
    Image.new("1", (13_400, 13_400)).save(large)  # 179,560,000 pixels; Pillow's own bound is 178,956,970
    before = Image.MAX_IMAGE_PIXELS
    assert read_mask(str(large)).shape == (13_400, 13_400)
    for bound, file in ((319, tmp_path / "small.png"), (13_400 * 13_400 - 1, large)):
        with pytest.raises(Unreadable, match=r"Raise data\.max_pixels"):
            read_image(str(file), "rgb", bound)
    assert read_image(str(tmp_path / "small.png"), "rgb", 320).shape == (3, 16, 20)
    assert before == Image.MAX_IMAGE_PIXELS


def test_the_key_bounds_what_a_dataset_reads_and_a_larger_image_can_be_skipped(tmp_path: Path) -> None:
    image_folder(tmp_path)
    picture(1, 40, 40).save(tmp_path / "train/class-0/0.png")
    with pytest.raises(UserError, match=r"class-0/0\.png: this image is 40 x 40"):
        open_split(config("image_folder", tmp_path, max_pixels=400), "train")[0]
    skipping = open_split(config("image_folder", tmp_path, max_pixels=400, on_error="skip"), "train")
    assert skipping[0]["image"].shape == (3, 16, 20)


def test_a_bound_is_another_experiment_only_where_it_decides_which_images_are_learnt() -> None:
    def of(*keys: str) -> str:
        return digest(load([DIGITS], list(keys)))

    assert of() == of("data.max_pixels=400000000")
    assert of("data.on_error=skip") != of("data.on_error=skip", "data.max_pixels=400000000")


def test_a_broken_header_is_reported_without_the_words_of_a_parser(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 1\0\0 7 255\n" + bytes(99))
    with pytest.raises(Unreadable, match=r"this image cannot be decoded \(its content is broken\)\. Replace it"):
        read_image(str(tmp_path / "a.pgm"), "rgb")
