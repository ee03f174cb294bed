"""Lists of images."""

import gc
import json
import os
import time
import unicodedata
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.data import dataset_info
from phalanx.data.open import open_split
from tests.data.pictures import config, picture, save


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in "abcd":
        save(picture(ord(name)), tmp_path / f"images/{name}.png")
    return tmp_path


def write(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n")


def test_a_line_is_a_path_and_a_class_and_classes_are_sorted(pictures: Path) -> None:
    write(pictures / "train.csv", "path,label", "images/a.png,dog", "images/b.png,cat", '"images/c.png",dog')
    write(pictures / "val.csv", "images/d.png,cat")
    training, validation = (open_split(config("list", pictures), split) for split in ("train", "val"))
    assert training.classes == validation.classes == ("cat", "dog")
    assert dataset_info.labels(training).tolist() == [1, 0, 1] and dataset_info.labels(validation).tolist() == [0]
    assert dataset_info.path(training, 2) == str(pictures / "images/c.png")
    assert training[0]["target"] == 1 and training[0]["image"].shape == (3, 16, 20)


def test_with_and_without_quotation_marks_and_carriage_returns_a_list_is_the_same(pictures: Path) -> None:
    lines = ["images/a.png,dog", "images/b.png,cat", "images/c.png,cat"]
    (pictures / "plain.csv").write_text("\n".join(lines))
    (pictures / "windows.csv").write_bytes(b"\xef\xbb\xbfimage,class\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n")
    (pictures / "quoted.csv").write_text("\n".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"' for line in lines))
    opened = [open_split(config("list", pictures, train_split=n), "train") for n in ("plain", "windows.csv", "quoted")]
    assert [dataset_info.labels(dataset).tolist() for dataset in opened] == [[1, 0, 0]] * 3
    assert len({tuple(dataset_info.path(dataset, i) for i in range(3)) for dataset in opened}) == 1


def test_numbers_are_sorted_as_numbers_and_classes_txt_names_them(pictures: Path) -> None:
    write(pictures / "train.csv", "images/a.png,10", "images/b.png,9", "images/c.png,0")
    assert open_split(config("list", pictures), "train").classes == ("0", "9", "10")
    write(pictures / "classes.txt", *(f"name-{i}" for i in range(11)))
    dataset = open_split(config("list", pictures), "train")
    assert len(dataset.classes) == 11 and dataset_info.labels(dataset).tolist() == [10, 9, 0]
    assert dataset_info.class_counts(dataset) == [1, *[0] * 8, 1, 1]


def test_several_labels_are_a_vector(pictures: Path) -> None:
    write(pictures / "train.csv", "images/a.png,cat;dog", "images/b.png,", "images/c.png,dog", "images/d.png,bird; cat")
    dataset = open_split(config("list", pictures), "train")
    assert dataset.kind == "multilabel" and dataset.classes == ("bird", "cat", "dog")
    targets = torch.stack([dataset[i]["target"] for i in range(4)])
    assert targets.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 0]] and targets.dtype == torch.float32
    assert dataset_info.class_counts(dataset) == [1, 2, 2] and dataset_info.labels(dataset) is None
    write(pictures / "val.csv", "images/a.png,cat")
    assert open_split(config("list", pictures), "val")[0]["target"].tolist() == [0, 1, 0]
    held_out = open_split(config("list", pictures, fold="1/2"), "train")
    counts = torch.stack([held_out[i]["target"] for i in range(len(held_out))]).sum(0)
    assert dataset_info.class_counts(held_out) == counts.tolist()


@pytest.mark.parametrize(
    ("lines", "classes", "said"),
    [
        (["images/a.png,cat", "images/b.png"], "", "train.csv: line 2 has 1 field instead of a path and a label"),
        (["images/a.png,cat", "images/b.png,cat,dog"], "", "line 2 has 3 fields"),
        (["images/a.png,cat,x", "images/b.png"], "", "line 1 has 3 fields"),
        ([",cat", "images/b.png,dog"], "", "line 1 has no path"),
        (['"images/a.png",cat', '"images/b.png"'], "", "line 2 has 1 field"),
        (['"images/a.png",cat', '"images/b.png,dog'], "", "this is not a CSV file"),
        (["images/a.png,cat", "images/b.png,"], "", "line 2 has no label"),
        (["images/a.png,cat", "images/b.png,cat"], "", "all images are of one class, cat"),
        (["path,label"], "", "only a title"),
        ([""], "", "train.csv: the list has no samples"),
        (["image,class", "images/a.png,1", "images/b.png,2"], "cat dog", "line 3 has the label 2, but classes.txt names 2"),
        (["images/a.png,-1", "images/b.png,1"], "cat dog", "line 1 has the label -1, but classes.txt names 2 classes (0 to 1)"),
        (["images/a.png,cat", "images/b.png,dog"], "cat cat", "classes.txt: 'cat' is on two lines"),
    ],
)
def test_a_list_that_cannot_be_gets_one_sentence_with_the_line(
    pictures: Path, lines: list[str], classes: str, said: str
) -> None:
    write(pictures / "train.csv", *lines)
    if classes:
        write(pictures / "classes.txt", *classes.split())
    with pytest.raises(UserError) as raised:
        open_split(config("list", pictures), "train")
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_label_that_the_training_list_lacks_is_reported(pictures: Path) -> None:
    write(pictures / "train.csv", "images/a.png,cat", "images/b.png,dog")
    write(pictures / "val.csv", "images/c.png,cat", "images/d.png,bird")
    with pytest.raises(UserError, match=r"val\.csv: line 2 has the label bird, which .*train\.csv does not have"):
        open_split(config("list", pictures), "val")
    with pytest.raises(UserError, match=r"test\.csv: there is no such file"):
        open_split(config("list", pictures, val_split="test"), "val")


def test_labels_whose_accents_are_stored_in_two_ways_are_one_class_and_those_of_another_case_are_reported(
    pictures: Path,
) -> None:
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write(pictures / "train.csv", f"images/a.png,{two}", f"images/b.png,{one}", "images/c.png,dog")
    write(pictures / "val.csv", f"images/d.png,{two}")
    training, validation = (open_split(config("list", pictures), split) for split in ("train", "val"))
    assert training.classes == validation.classes == (one, "dog") and not dataset_info.notes(training)
    assert dataset_info.labels(training).tolist() == [0, 0, 1] and dataset_info.labels(validation).tolist() == [0]
    write(pictures / "train.csv", f"images/a.png,{two}", "images/c.png,dog")
    assert open_split(config("list", pictures), "train").classes == (two, "dog")  # as runs of before know it
    write(pictures / "classes.txt", "dog", one)
    assert dataset_info.labels(open_split(config("list", pictures), "train")).tolist() == [1, 0]
    (pictures / "classes.txt").unlink()
    for lines in (("a.png,Dog", "b.png,dog", "c.png,cat"), ("a.png,Dog;cat", "b.png,dog")):
        write(pictures / "train.csv", *lines)
        dataset = open_split(config("list", pictures), "train")
        assert len(dataset.classes) == 3
        assert "train.csv: the classes 'Dog' and 'dog' are learnt as two" in dataset_info.notes(dataset)[0]


def test_a_list_named_as_text_is_reported(pictures: Path) -> None:
    write(pictures / "train.txt", "images/a.png,dog", "images/b.png,cat")
    with pytest.raises(UserError, match=r"train\.csv: there is no such file, but train\.txt lies beside it.* train\.txt\.$"):
        open_split(config("list", pictures), "train")
    assert len(open_split(config("list", pictures, train_split="train.txt"), "train")) == 2


def _private_mb() -> float:
    """Memory that is this process's own, not shared with the one that it was forked from."""
    return psutil.Process().memory_full_info().uss / 1e6


def test_a_million_lines_open_and_a_forked_reader_does_not_grow(tmp_path: Path) -> None:
    count = 1_000_000
    (tmp_path / "train.csv").write_text(
        "".join(f"class-{i % 1000:03d}/{i:07d}.jpg,class-{i % 1000:03d}\n" for i in range(count))
    )
    begun = time.process_time()
    dataset = open_split(config("list", tmp_path), "train")
    print(f"a million lines open in {time.process_time() - begun:.2f} s of processor time")
    assert (
        len(dataset) == count and len(dataset.classes) == 1000 and dataset_info.path(dataset, count - 1).endswith("0999999.jpg")
    )
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        gc.disable()  # it would touch all that this long process has, which is not the list's
        memory = [_private_mb()]
        for _ in range(4):  # epochs
            for i in range(0, count, 50):  # every page of the list
                dataset_info.path(dataset, i)
                int(dataset_info.labels(dataset)[i])
            memory.append(_private_mb())
        os.write(writing, json.dumps(memory).encode())
        os._exit(0)
    os.waitpid(child, 0)
    memory = json.loads(os.read(reading, 1000))
    os.close(reading), os.close(writing)
    # A list of as many strings becomes the child's own in the first epoch: 113 MB. What grows does so in every epoch.
    assert min(after - before for before, after in pairwise(memory[1:])) < 1 and memory[-1] - memory[0] < 40, memory
