"""Decoding: every kind of file gives what is in it, and a broken one a sentence."""

import io
import struct
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torchvision.io import encode_png

from phalanx.data.bad_sample import Unreadable
from phalanx.data.images.decoding import read_image, read_mask
from phalanx.data.images.modes import in_mode
from tests.data.pictures import jpeg, picture, save


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_a_file_without_loss_gives_its_pixels(suffix: str, tmp_path: Path) -> None:
    image = picture(1)
    path = tmp_path / f"a.{suffix}"
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert torch.equal(read_image(str(path), "rgb").permute(1, 2, 0), torch.from_numpy(numpy.array(image)))


def test_a_jpeg_gives_what_pillow_gives(tmp_path: Path) -> None:
    path = save(picture(1), tmp_path / "a.jpg")
    assert torch.equal(read_image(str(path), "rgb").permute(1, 2, 0), torch.from_numpy(numpy.array(Image.open(path))))


def test_a_jpeg_that_is_cut_short_is_reported_and_one_with_more_behind_it_is_read(tmp_path: Path) -> None:
    content = io.BytesIO()
    picture(1).save(content, "JPEG", progressive=True, comment=b"the end of a thumbnail: \xff\xd9")
    whole, path = content.getvalue(), tmp_path / "a.jpg"
    path.write_bytes(whole)
    before = read_image(str(path), "rgb")
    path.write_bytes(whole + b"a film \xff\xda" * 20_000)
    assert torch.equal(read_image(str(path), "rgb"), before)
    for left_out in (1, 2, 30, len(whole) // 3):
        path.write_bytes(whole[:-left_out])
        with pytest.raises(Unreadable, match=r"a\.jpg: this JPEG cannot be decoded"):
            read_image(str(path), "rgb")


def test_what_a_file_is_its_content_says_not_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(jpeg(1))
    assert read_image(str(tmp_path / "a.png"), "rgb").shape == (3, 16, 20)


def test_16_bits_stay_16_bits(tmp_path: Path) -> None:
    grey = numpy.random.default_rng(1).integers(0, 1 << 16, (9, 7), dtype=numpy.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    for mode, channels in (("grey", 1), ("rgb", 3), ("rgba", 4)):
        image = read_image(str(tmp_path / "grey.png"), mode)  # type: ignore[arg-type]
        assert image.dtype == torch.uint16 and image.shape == (channels, 9, 7)
        assert numpy.array_equal(image[0].numpy(), grey)
    assert int(image[3].to(torch.int32).min()) == 0xFFFF


def _deep_colour_png(pixels: numpy.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which neither Pillow nor torchvision writes."""
    import struct
    import zlib

    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_colours_of_16_bits_are_kept_and_a_broken_file_of_them_is_reported(tmp_path: Path) -> None:
    pixels = numpy.random.default_rng(1).integers(0, 1 << 16, (9, 7, 3), dtype=numpy.uint16)
    path = tmp_path / "deep.png"
    content = _deep_colour_png(pixels)
    path.write_bytes(content)
    assert numpy.array_equal(read_image(str(path), "rgb").permute(1, 2, 0).numpy(), pixels)
    path.write_bytes(content[:100] + bytes(20) + content[120:])
    with pytest.raises(Unreadable, match=r"deep\.png: this PNG cannot be decoded"):
        read_image(str(path), "rgb")


def test_a_picture_is_turned_as_its_orientation_says(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x112] = 6  # "the 0th row is the right side": to be turned by a quarter
    for name in ("a.jpg", "a.png"):
        picture(1).save(tmp_path / name, exif=turned)
        assert read_image(str(tmp_path / name), "rgb").shape == (3, 20, 16)


def test_opacity_is_dropped_kept_or_made(tmp_path: Path) -> None:
    with_opacity = save(picture(1, channels=4), tmp_path / "rgba.png")
    pixels = torch.from_numpy(numpy.array(Image.open(with_opacity))).permute(2, 0, 1)
    assert torch.equal(read_image(str(with_opacity), "rgba"), pixels)
    assert torch.equal(read_image(str(with_opacity), "rgb"), pixels[:3])
    without = read_image(str(save(picture(1), tmp_path / "a.jpg")), "rgba")
    assert without.shape[0] == 4 and int(without[3].min()) == 255


def test_grey_is_the_luma_of_bt_601() -> None:
    colours = torch.tensor([[255, 0, 0, 10], [0, 255, 0, 20], [0, 0, 255, 30]], dtype=torch.uint8).reshape(3, 1, 4)
    assert in_mode(colours, "grey").flatten().tolist() == [76, 149, 29, 18]
    assert in_mode(colours.float() / 255, "grey").flatten()[:3].tolist() == pytest.approx([0.299, 0.587, 0.114])
    with pytest.raises(ValueError, match="5 channels"):
        in_mode(torch.zeros(5, 2, 2), "rgb")


def test_a_mask_is_the_numbers_of_its_palette_or_its_grey(tmp_path: Path) -> None:
    numbers = numpy.random.default_rng(1).integers(0, 5, (9, 7), dtype=numpy.uint8)
    with_palette = Image.new("P", (7, 9))
    with_palette.putdata(numbers.flatten().tolist())
    with_palette.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 0, 0, 0, 255, 255, 255])
    for image in (with_palette, Image.fromarray(numbers)):
        assert numpy.array_equal(read_mask(str(save(image, tmp_path / "mask.png"))).numpy(), numbers)
    many = numbers.astype(numpy.uint16) * 300
    Image.fromarray(many).save(tmp_path / "many.png")
    assert numpy.array_equal(read_mask(str(tmp_path / "many.png")).numpy(), many)
    with pytest.raises(Unreadable, match="one number per pixel, its class, but this image has the channels RGB"):
        read_mask(str(save(picture(1), tmp_path / "colours.png")))


def test_a_broken_file_gets_one_sentence_that_names_it(tmp_path: Path) -> None:
    whole = jpeg(1)
    png = encode_png(torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8)).numpy().tobytes()
    one_pixel = io.BytesIO()
    picture(1, 1, 1).save(one_pixel, "PNG")
    for content, said in [
        (whole[: len(whole) // 2], "this JPEG cannot be decoded"),
        (whole[:200], "this JPEG cannot be decoded"),
        (whole[:200] + whole[-2:], "this JPEG cannot be decoded"),
        (png[: len(png) // 2], "this PNG cannot be decoded"),
        (png[:100] + bytes(9) + png[109:], "this PNG cannot be decoded"),
        (b"<html>not found</html>", "this is a web page; supported are JPEG"),
        (b"not an image", "this file is not an image"),
        (b"", "the file is empty"),
        (one_pixel.getvalue(), "this image is 1 x 1 pixels, too small to show anything"),
    ]:
        path = tmp_path / "bad.jpg"
        path.write_bytes(content)
        with pytest.raises(Unreadable) as raised:
            read_image(str(path), "rgb")
        assert str(raised.value).startswith(f"{path}: {said}") and "\n" not in str(raised.value)
        assert ".cpp" not in str(raised.value)
    with pytest.raises(Unreadable, match="there is no such file"):
        read_image(str(tmp_path / "nowhere.jpg"), "rgb")


def test_no_broken_file_is_more_than_unreadable(tmp_path: Path) -> None:
    """Bytes changed at random, of every format."""
    random = numpy.random.default_rng(1)
    path = tmp_path / "broken"
    told = 0
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "GIF"):
        content = io.BytesIO()
        picture(1).save(content, kind)
        for _ in range(60):
            broken = bytearray(content.getvalue())
            for place in random.integers(0, len(broken), 8):
                broken[place] = random.integers(0, 256)
            path.write_bytes(broken)
            for read in (lambda: read_image(str(path), "rgb"), lambda: read_mask(str(path))):
                try:
                    read()
                except Unreadable:
                    told += 1
                except UserWarning:
                    continue  # of Pillow, which continues
    assert told > 100


@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_png_of_deep_colour_whose_pixels_are_not_all_there_is_refused_before_its_decoder_crashes(
    tmp_path: Path, interlaced: int
) -> None:
    # Columns and rows of Adam7's passes of 5 x 3 pixels; the third has none.
    passes = [(1, 1), (1, 1), (1, 1), (3, 1), (2, 2), (5, 1)] if interlaced else [(5, 3)]
    rows = b"".join((b"\0" + b"\x12\x34" * 3 * columns) * count for columns, count in passes)
    path = tmp_path / "deep.png"
    path.write_bytes(_deep_png(5, 3, interlaced, rows))
    assert (read_image(str(path), "rgb") == 0x1234).all()
    cases = ((rows[:-1], "ends too early"), (b"\x05" + rows[1:], "pixels are broken"), (b"", "ends too early"))
    for broken, said in (*cases, (rows + b"\0", "pixels are broken")):
        path.write_bytes(_deep_png(5, 3, interlaced, broken))
        with pytest.raises(Unreadable, match=said):
            read_image(str(path), "rgb")


def _deep_png(width: int, height: int, interlaced: int, rows: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
