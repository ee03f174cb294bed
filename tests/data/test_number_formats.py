"""Numbers of images and masks in every format: read as they are meant, or refused by name."""

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from phalanx.configs.errors import UserError
from phalanx.data.bad_sample import Unreadable
from phalanx.data.images.decoding import read_image, read_mask
from tests.data.image_files import chunk, encoded, png, tiff

NUMBERS = numpy.arange(12, dtype=numpy.int64).reshape(3, 4)
DEEP = numpy.random.default_rng(1).integers(0, 1 << 16, (3, 4, 3), dtype=numpy.uint16)


def as_tiff(values: numpy.ndarray, kind: str, bits: int, **keys: Any) -> bytes:
    return tiff(4, 3, values.astype(kind).tobytes(), bits, order=kind[0], **keys)


def grey(*keys: Any, **named: Any) -> bytes:
    return encoded(Image.fromarray(NUMBERS.astype(numpy.uint8)), *keys, **named)


def channels(*values: Any) -> numpy.ndarray:
    return numpy.stack([numpy.broadcast_to(value, (3, 4)) for value in values], axis=2).astype(numpy.uint8)


IMAGES_READ = {
    "32 bits that fit into 16": (encoded(NUMBERS.astype(numpy.int32) * 1000, "TIFF"), NUMBERS * 1000),
    "16 bits, the upper byte first": (as_tiff(NUMBERS * 1000, ">u2", 16), NUMBERS * 1000),
    "16 bits with a sign, none below zero": (as_tiff(NUMBERS * 1000, "<i2", 16, sample_format=2), NUMBERS * 1000),
    "16 bits, zero is white": (as_tiff(NUMBERS * 1000, "<u2", 16, photometric=0), 65535 - NUMBERS * 1000),
    "12 bits, 4095 is white": (
        tiff(2, 2, bytes.fromhex("fff000800001"), 12),
        numpy.array([[65535, 0], [0x8008, 16]]),
    ),
    "floating point that is whole bytes": (encoded(NUMBERS.astype(numpy.float32), "TIFF"), NUMBERS),
    "one bit": (encoded(Image.fromarray(NUMBERS % 2 == 0), "PNG"), (NUMBERS % 2 == 0) * 255),
    "the colour already times the opacity": (
        tiff(2, 2, bytes([60, 120, 0, 0] * 2), 8, samples=2, premultiplied=True),
        numpy.array([[127, 0], [127, 0]]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES_READ)
def test_an_image_of_any_number_format_has_the_values_that_are_meant(name: str, tmp_path: Path) -> None:
    content, meant = IMAGES_READ[name]
    (tmp_path / "a").write_bytes(content)
    assert read_image(str(tmp_path / "a"), "rgb")[0].tolist() == meant.tolist()


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_colours_of_16_bits_keep_both_bytes(order: str, deflated: bool, tmp_path: Path) -> None:
    for name, content in {
        "a.tif": as_tiff(DEEP, f"{order}u2", 16, photometric=2, samples=3, deflated=deflated),
        "a.ppm": b"P6 4 3\n# of 16 bits\n65535\n" + DEEP.astype(">u2").tobytes(),
    }.items():
        (tmp_path / name).write_bytes(content)
        image = read_image(str(tmp_path / name), "rgb")
        assert image.dtype == torch.uint16 and numpy.array_equal(image.permute(1, 2, 0).numpy(), DEEP)


IMAGES_REFUSED = {
    "pixel values from 0 to 110000": encoded(NUMBERS.astype(numpy.int32) * 10000, "TIFF"),
    "pixel values from -3 to 8": encoded((NUMBERS - 3).astype(numpy.int32), "TIFF"),
    "pixel values from -1 to 10": as_tiff(NUMBERS - 1, "<i2", 16, sample_format=2),
    "pixel values from 2147483648 to 2147483659": as_tiff(NUMBERS + 2**31, "<u4", 32),
    "this TIFF holds numbers below zero": as_tiff(NUMBERS - 1, "<i1", 8, sample_format=2),
    "floating point numbers, from 0 to 1,": encoded((NUMBERS / 11).astype(numpy.float32), "TIFF"),
    "floating point numbers, from 0 to 1000,": encoded((NUMBERS > 10).astype(numpy.float32) * 1000, "TIFF"),
    "floating point numbers, from nan to nan": encoded(numpy.full((3, 4), numpy.nan, numpy.float32), "TIFF"),
    "are LAB, which are not converted": encoded(Image.new("LAB", (4, 3)), "TIFF"),
    "16 bits in separate planes": as_tiff(numpy.moveaxis(DEEP, 2, 0), "<u2", 16, photometric=2, samples=3, planes=True),
    "numbers are of an unsupported type": as_tiff(NUMBERS, "<f8", 64, sample_format=3),
}


@pytest.mark.parametrize("said", IMAGES_REFUSED)
def test_an_image_whose_numbers_are_no_colours_is_refused_by_name(said: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(IMAGES_REFUSED[said])
    with pytest.raises(Unreadable) as raised:
        read_image(str(tmp_path / "a"), "rgb")
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_opacity_in_a_palette_or_as_one_colour_is_opacity(tmp_path: Path) -> None:
    see_through = chunk(b"tRNS", b"\0\0\0\x07\0\x07\0\x07"[2:])
    content = png(2, 2, 8, 2, bytes([7, 7, 7, 1, 2, 3]) * 2, see_through)
    (tmp_path / "a.png").write_bytes(content)
    assert read_image(str(tmp_path / "a.png"), "rgba")[3].tolist() == [[0, 255]] * 2
    assert read_image(str(tmp_path / "a.png"), "rgb")[:, 0, 0].tolist() == [7, 7, 7]


def test_the_first_of_several_frames_or_pages_is_the_image(tmp_path: Path) -> None:
    first, second = (Image.fromarray((NUMBERS + add).astype(numpy.uint8)) for add in (0, 100))
    for kind in ("TIFF", "GIF", "PNG"):
        (tmp_path / kind).write_bytes(encoded(first, kind, save_all=True, append_images=[second]))
        assert read_image(str(tmp_path / kind), "rgb")[0].tolist() == NUMBERS.tolist()


PALETTE = chunk(b"PLTE", bytes(12))
MASKS_READ = {
    "colours that are all the same": (encoded(channels(NUMBERS, NUMBERS, NUMBERS), "PNG"), NUMBERS),
    "the same, and opaque": (encoded(channels(NUMBERS, NUMBERS, NUMBERS, 255), "PNG"), NUMBERS),
    "grey and opaque": (encoded(channels(NUMBERS, 255), "PNG"), NUMBERS),
    "a bitmap": (encoded(Image.fromarray(NUMBERS % 2 == 0), "PNG"), NUMBERS % 2 == 0),
    "2 bits": (png(4, 3, 2, 0, bytes([0b00011011] * 3)), numpy.tile([0, 1, 2, 3], (3, 1))),
    "4 bits": (png(4, 3, 4, 0, bytes([0x01, 0x2F] * 3)), numpy.tile([0, 1, 2, 15], (3, 1))),
    "a palette of 2 bits": (png(4, 3, 2, 3, bytes([0b00011011] * 3), PALETTE), numpy.tile([0, 1, 2, 3], (3, 1))),
    "4 bits of a TIFF": (tiff(4, 3, bytes([0x01, 0x2F] * 3), 4), numpy.tile([0, 1, 2, 15], (3, 1))),
    "32 bits": (encoded(NUMBERS.astype(numpy.int32) * 5000, "TIFF"), NUMBERS * 5000),
    "floating point": (encoded((NUMBERS * 300).astype(numpy.float32), "TIFF"), NUMBERS * 300),
    "a PGM of few numbers": (b"P5\n# made by 1 tool\n4 3\n11\n" + bytes(range(12)), NUMBERS),
    "a plain PGM": (b"P2 4 3 11\n" + b" ".join(b"%d" % value for value in range(12)), NUMBERS),
    "a PGM of many numbers": (b"P5 4 3 1000\n" + (NUMBERS * 90).astype(">u2").tobytes(), NUMBERS * 90),
    "WebP without loss": (encoded(channels(NUMBERS, NUMBERS, NUMBERS), "WEBP", lossless=True), NUMBERS),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS_READ)
def test_a_mask_of_any_number_format_has_the_numbers_that_are_stored(name: str, tmp_path: Path) -> None:
    content, meant = MASKS_READ[name]
    (tmp_path / "a").write_bytes(content)
    assert numpy.array_equal(read_mask(str(tmp_path / "a")).numpy(), meant)


MASKS_REFUSED = {
    "JPEG compression changes numbers": grey("JPEG", quality=100),
    "WEBP compression changes numbers": grey("WEBP"),
    "a TIFF with JPEG compression changes numbers": grey("TIFF", compression="jpeg"),
    "has the channels RGB": encoded(channels(NUMBERS, NUMBERS, NUMBERS + 1), "PNG"),
    "has the channels CMYK": encoded(Image.new("CMYK", (4, 3)), "TIFF"),
    "has transparent pixels": encoded(channels(NUMBERS, NUMBERS, NUMBERS, NUMBERS), "PNG"),
    "several channels of 16 bits": png(4, 3, 16, 2, bytes(4 * 3 * 6)),
    "this mask has 2 pages or frames": grey("TIFF", save_all=True, append_images=[Image.new("L", (4, 3))]),
    "numbers from 0 to 110000": encoded(NUMBERS.astype(numpy.int32) * 10000, "TIFF"),
    "numbers from -3 to 8": encoded((NUMBERS - 3).astype(numpy.int32), "TIFF"),
    "not all of them are integers": encoded((NUMBERS / 2).astype(numpy.float32), "TIFF"),
    "TIFF declares that white is zero": as_tiff(NUMBERS, "<u2", 16, photometric=0),
    "this TIFF declares that white is zero, so": as_tiff(NUMBERS, "<u1", 8, photometric=0),
    "PBM declares that white is zero": b"P1\n2 2\n0 1\n1 0\n",
}


@pytest.mark.parametrize("said", MASKS_REFUSED)
def test_a_mask_without_one_number_a_pixel_is_refused_by_name(said: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(MASKS_REFUSED[said])
    with pytest.raises(Unreadable) as raised:
        read_mask(str(tmp_path / "a"))
    assert said in str(raised.value) and str(raised.value).endswith("Store class indices, as a grey or palette PNG.")


def test_a_mask_that_holds_itself_again_in_smaller_sizes_is_one_mask(tmp_path: Path) -> None:
    overview = Image.new("L", (2, 2))
    overview.encoderinfo = {"tiffinfo": {254: 1}}
    (tmp_path / "a.tif").write_bytes(grey("TIFF", save_all=True, append_images=[overview]))
    assert numpy.array_equal(read_mask(str(tmp_path / "a.tif")).numpy(), NUMBERS)


BANDS = bytes(range(1, 25))  # of 2 x 2 pixels, up to 6 a pixel


@pytest.mark.parametrize(("photometric", "samples", "extra"), [(2, 5, [0, 0]), (2, 5, [2, 0]), (5, 6, [0, 0])])
def test_more_bands_than_colours_and_opacity_are_refused_by_their_number(
    tmp_path: Path, photometric: int, samples: int, extra: list[int]
) -> None:
    file = tmp_path / "satellite.tif"
    file.write_bytes(tiff(2, 2, BANDS[: 4 * samples], 8, photometric=photometric, samples=samples, extra=extra))
    for read in (lambda: read_image(str(file), "rgb"), lambda: read_mask(str(file))):
        with pytest.raises(UserError, match=rf"satellite\.tif: this TIFF has {samples} bands, of which"):
            read()


def test_a_fourth_band_is_opacity_only_where_the_file_says_so(tmp_path: Path) -> None:
    file = tmp_path / "infrared.tif"
    file.write_bytes(tiff(2, 2, BANDS[:16], 8, photometric=2, samples=4, extra=[0]))
    assert read_image(str(file), "rgb")[:, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(UserError, match=r"this TIFF has 4 bands and does not say that the last is its opacity"):
        read_image(str(file), "rgba")
    file.write_bytes(tiff(2, 2, BANDS[:16], 8, photometric=2, samples=4, extra=[2]))
    assert read_image(str(file), "rgba")[:, 0, 0].tolist() == [1, 2, 3, 4]
