"""Data sets of classes and masks: CSV lists, folders and names, `classes.txt`, masks, the files of MNIST and CIFAR."""

import gzip
import struct
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import mutations, values
from tests.fuzz.case import Case, Content
from tests.fuzz.targets.annotations import _KEYS, door, prepare
from tests.fuzz.targets.pictures import image
from tests.fuzz.targets.target import Target

_LIST = "path,label\na/0.png,cat\na/1.png,dog\nb/2.png,cat\n"
_ROWS = [
    '"a/0.png",cat',
    '"a/0.png,cat',
    'a/0.png,"ca""t"',
    "a/0.png",
    "a/0.png,cat,dog",
    ",cat",
    "a/0.png,",
    "a/0.png, cat",
    "a/0.png,cat;dog",
]
_ROWS += [
    "a/0.png;cat",
    "a/0.png\tcat",
    "../0.png,cat",
    "/etc/passwd,cat",
    "a/0.png,\ufeffcat",
    "a/\udc80.png,cat",
    "a/9.png,cat",
    "A/0.PNG,cat",
]
_ROWS += ["a\\0.png,cat", "# a", ",,", ";", "a/0.png,;", "a/0.png,9999999999999999999999", "image,label", "a/0.png,0"]


@st.composite
def _lists(draw: mutations.Draw) -> Case:
    files: dict[str, Content] = {name: image(seed=n) for n, name in enumerate(("a/0.png", "a/1.png", "b/2.png"))}
    files |= {"train.csv": _LIST.encode(), "val.csv": _LIST.encode()}
    how = draw(st.sampled_from(["text", "text", "text", "bytes", "files", "classes"]))
    name = draw(st.sampled_from(["train.csv", "val.csv"]))
    if how == "text":
        changed = mutations.encoded(draw, mutations.text(draw, _LIST, _ROWS))
        files |= {"train.csv": changed, "val.csv": changed} if draw(st.booleans()) else {name: changed}
    elif how == "bytes":
        files[name] = mutations.raw(draw, _LIST.encode())
    elif how == "classes":
        files["classes.txt"] = mutations.encoded(draw, mutations.text(draw, "cat\ndog\n", ["void", "cat", " dog", "0"]))
    else:
        files = mutations.files(draw, files)
    return Case("lists", files, _KEYS | {"name": "list", "on_error": draw(st.sampled_from(["fail", "skip"]))})


_ODD_FOLDERS = [
    ".ipynb_checkpoints",
    "@eaDir",
    "__MACOSX",
    "Training",
    "train ",
    "é",
    "\udc80",
    "\ufeffa",
    "a\nb",
    "\x1b[31m",
    "Thumbs.db",
    "~",
]


@st.composite
def _folders(draw: mutations.Draw) -> Case:
    files: dict[str, Content] = {}
    for split in ("train", "val"):
        files |= {f"{split}/{name}/{n}.png": image(seed=n) for name in ("cat", "dog") for n in (0, 1)}
    for _ in range(draw(st.integers(1, 3))):
        how = draw(st.sampled_from(["files", "name", "name", "folder", "content"]))
        if how == "files" and files:
            files = mutations.files(draw, files)
        elif how == "name":
            word = draw(st.one_of(values.words, st.sampled_from(_ODD_FOLDERS)))[:200]
            place = draw(st.sampled_from(["train", "val", "train/cat", ""]))
            files[f"{place}/{word}/0.png".lstrip("/")] = image()
        elif how == "folder":
            word = draw(st.sampled_from(_ODD_FOLDERS))
            files[f"{draw(st.sampled_from(['train', 'val']))}/{word}/a"] = b""
        else:
            name = draw(st.sampled_from(["train/cat/0.png", "val/dog/1.png"]))
            files[name] = draw(
                st.sampled_from([b"", b"no image", image("JPEG"), image("GIF"), image(mode="L"), image(mode="RGBA")])
            )
    keys: dict[str, Any] = {"name": "image_folder", "on_error": draw(st.sampled_from(["fail", "skip"]))}
    if draw(st.integers(0, 3)) == 0:
        keys |= {"val_fraction": 0.5}
    return Case("folders", files, _KEYS | keys)


def _mask(draw: mutations.Draw) -> bytes:
    how = draw(st.sampled_from(["good", "mode", "size", "bytes", "bytes", "form", "odd"]))
    if how == "mode":
        return image("PNG", draw(st.sampled_from(["RGB", "RGBA", "LA", "1", "I;16", "P"])))
    if how == "size":
        return image("PNG", "L", *draw(st.sampled_from([(1, 1), (13, 10), (10, 12), (300, 1)])))
    if how == "form":
        return image(draw(st.sampled_from(["TIFF", "BMP", "GIF", "JPEG", "WEBP", "PPM"])), "L")
    if how == "odd":
        return image("TIFF", draw(st.sampled_from(["F", "I", "CMYK", "I;16"])))
    content = image("PNG", draw(st.sampled_from(["L", "P"])))
    return mutations.raw(draw, content) if how == "bytes" else content


@st.composite
def _masks(draw: mutations.Draw) -> Case:
    files: dict[str, Content] = {"classes.txt": b"road\ntree\ncar\n"}
    for split in ("train", "val"):
        for number in (0, 1):
            files[f"images/{split}/{number}.jpg"] = image("JPEG", seed=number)
            files[f"masks/{split}/{number}.png"] = image("PNG", "L", seed=number)
    how = draw(st.sampled_from(["mask", "mask", "mask", "classes", "files", "key"]))
    keys: dict[str, Any] = {"name": "masks", "on_error": draw(st.sampled_from(["fail", "skip"]))}
    if how == "mask":
        files[f"masks/train/{draw(st.integers(0, 1))}.png"] = _mask(draw)
    elif how == "classes":
        lines = ["void", "road", " tree", "", "0 road", "background"]
        files["classes.txt"] = mutations.encoded(draw, mutations.text(draw, "road\ntree\ncar\n", lines))
    elif how == "files":
        files = mutations.files(draw, files)
    else:
        keys |= {"ignore_index": draw(st.sampled_from([0, 1, 2, 3, 254, 256, 65535, 65536, 10**9, 2**63]))}
    return Case("masks", files, _KEYS | keys)


def _idx(count: int, *sides: int) -> bytes:
    total = count
    for side in sides:
        total *= side
    head = struct.pack(f">4B{1 + len(sides)}I", 0, 0, 8, 1 + len(sides), count, *sides)
    return head + bytes(i % 10 if not sides else i % 256 for i in range(total))


@st.composite
def _arrays(draw: mutations.Draw) -> Case:
    if draw(st.booleans()):
        files: dict[str, Content] = {}
        for prefix in ("train", "t10k"):
            files[f"{prefix}-images-idx3-ubyte"] = _idx(10, 8, 8)
            files[f"{prefix}-labels-idx1-ubyte"] = _idx(10)
        keys = {"name": "mnist", "image_size": 8}
    else:
        record = b"".join(bytes([n % 10]) + bytes(3072) for n in range(10))
        files = {f"data_batch_{n}.bin": record for n in range(1, 6)} | {"test_batch.bin": record}
        files["batches.meta.txt"] = b"\n".join(b"c%d" % n for n in range(10)) + b"\n\n"
        keys = {"name": "cifar10"}
    name = draw(st.sampled_from(sorted(files)))
    old = files[name]
    assert isinstance(old, bytes)
    if draw(st.integers(0, 3)) == 0:
        files = mutations.files(draw, files)
    elif name.endswith("ubyte") and draw(st.booleans()):
        del files[name]
        files[name + ".gz"] = mutations.raw(draw, gzip.compress(old, mtime=0))
    else:
        files[name] = mutations.raw(draw, old, head=20)
    return Case("arrays", files, _KEYS | keys)


TARGETS = [
    Target("lists", "CSV lists, `classes.txt`", 120, _lists, door, prepare=prepare),
    Target("folders", "folders of images: odd names, odd contents, links, missing ones", 100, _folders, door, prepare=prepare),
    Target(
        "masks",
        "masks in every format and number format, `classes.txt`, `data.ignore_index`",
        120,
        _masks,
        door,
        prepare=prepare,
    ),
    Target("arrays", "the files of MNIST and CIFAR, gzipped too", 80, _arrays, door, prepare=prepare),
]
