"""Decoded images that ranks share: the same bits, whoever wrote them, and whatever happened while they did."""

import os
import resource
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from phalanx.configs.errors import UserError
from phalanx.data.open import open_split
from tests.data.pictures import config, image_folder, masks, picture, save


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_with_a_cache_every_sample_has_the_same_bits(tmp_path: Path) -> None:
    masks(tmp_path / "data")
    picture(3).convert("I;16").save(tmp_path / "data/images/train/deep.png")
    save(picture(1, channels=1), tmp_path / "data/masks/train/deep.png")
    save(picture(1, channels=1).point(lambda value: value % 3), tmp_path / "data/masks/train/deep.png")
    plain = open_split(config("masks", tmp_path / "data"), "train")
    for _ in range(2):  # filling it, and from it
        dataset = open_split(config("masks", tmp_path / "data", cache=str(tmp_path / "cache")), "train")
        for i in range(len(plain)):
            one, other = plain[i], dataset[i]
            assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)
    assert len(kept(tmp_path / "cache")) == 2 * len(plain)


def test_what_is_in_the_cache_is_used_and_nobody_else_s(tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    settings = config("image_folder", tmp_path / "data", cache=str(tmp_path / "cache"))
    dataset = open_split(settings, "train")
    before = dataset[0]["image"]
    path = Path(dataset.path(0))
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert torch.equal(dataset[0]["image"], before), "it was read again"
    save(picture(99), path)
    assert not torch.equal(dataset[0]["image"], before), "the file has changed, and its image with it"
    grey = open_split(config("image_folder", tmp_path / "data", cache=str(tmp_path / "cache"), mode="grey"), "train")
    assert grey[0]["image"].shape[0] == 1
    assert len(kept(tmp_path / "cache")) == 3


def test_what_is_not_whole_is_not_read(tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    dataset = open_split(config("image_folder", tmp_path / "data", cache=str(tmp_path / "cache")), "train")
    before = dataset[0]["image"]
    (file,) = kept(tmp_path / "cache")
    whole = file.read_bytes()
    for broken in (b"", whole[:10], whole[:-1], b"x" * len(whole), whole + b"x"):
        file.write_bytes(broken)
        assert torch.equal(dataset[0]["image"], before)
        assert file.read_bytes() == whole, "it is written anew"


def test_a_writer_that_is_killed_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    image_folder(tmp_path / "data", (60, 60))
    settings = config("image_folder", tmp_path / "data", cache=str(tmp_path / "cache"))
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        dataset = open_split(settings, "train")
        for i in range(len(dataset)):
            dataset[i]
            os.write(writing, b".")
        os._exit(0)
    os.read(reading, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading), os.close(writing)
    plain, dataset = open_split(config("image_folder", tmp_path / "data"), "train"), open_split(settings, "train")
    assert all(torch.equal(plain[i]["image"], dataset[i]["image"]) for i in range(len(plain)))


def test_several_writers_at_once_agree(tmp_path: Path) -> None:
    image_folder(tmp_path / "data", (20, 20))
    settings = config("image_folder", tmp_path / "data", cache=str(tmp_path / "cache"))
    plain = open_split(config("image_folder", tmp_path / "data"), "train")
    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            dataset = open_split(settings, "train")
            same = all(torch.equal(plain[i]["image"], dataset[i]["image"]) for i in range(len(plain)))
            os._exit(0 if same else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(kept(tmp_path / "cache")) == 40


def test_a_full_disk_is_said_once_and_training_continues(tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    plain = open_split(config("image_folder", tmp_path / "data"), "train")
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        code = 1
        try:
            sys.stderr = open(writing, "w")  # noqa: SIM115
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            dataset = open_split(config("image_folder", tmp_path / "data", cache=str(tmp_path / "cache")), "train")
            dataset[0]
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # no file can be larger: it fails as on a full disk
            code = 0 if all(torch.equal(plain[i]["image"], dataset[i]["image"]) for i in range(len(plain))) else 2
        finally:
            os._exit(code)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    with open(reading) as said:
        assert said.read() == f"phalanx: data.cache={tmp_path / 'cache'} is full; further images are not cached\n"
    assert len(kept(tmp_path / "cache")) == 1


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache=.*/file/x: the folder cannot be made: Not a directory"):
        open_split(config("image_folder", tmp_path / "data", cache=str(tmp_path / "file/x")), "train")


def dataset_of(root: Path, cache: Path) -> Any:
    return open_split(config("image_folder", root / "data", cache=str(cache)), "train")


def test_a_folder_of_the_cache_is_the_owner_s_alone(tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    dataset_of(tmp_path, tmp_path / "cache")[0]
    folders = [tmp_path / "cache", *(path for path in (tmp_path / "cache").iterdir())]
    assert [stat.S_IMODE(path.stat().st_mode) for path in folders] == [0o700, 0o700]


def test_in_a_place_of_all_users_the_cache_is_a_folder_of_one_s_own(tmp_path: Path) -> None:
    image_folder(tmp_path / "data")
    place = tmp_path / "shm"
    place.mkdir()
    place.chmod(0o1777)
    dataset_of(tmp_path, place)[0]
    assert [path.name for path in place.iterdir()] == [f"phalanx-{os.geteuid()}"]
    assert len(kept(place)) == 1 and stat.S_IMODE(next(place.iterdir()).stat().st_mode) == 0o700


def test_a_folder_in_which_others_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder(tmp_path / "data")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UserError, match=r"/open: every user may write there \(mode 0777\).*Run chmod o-w"):
        dataset_of(tmp_path, tmp_path / "open")
    (tmp_path / "open").chmod(0o775)
    (tmp_path / "link").symlink_to("open")
    assert len(dataset_of(tmp_path, tmp_path / "link")) == 8
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for name, what in (("open", "the folder"), ("link", "the link")):
        with pytest.raises(UserError, match=rf"/{name}: {what} belongs to .*, who could put other images there"):
            dataset_of(tmp_path, tmp_path / name)


def test_planted_links_are_neither_read_nor_followed(tmp_path: Path) -> None:
    image_folder(tmp_path / "data", (1, 1))
    before = dataset_of(tmp_path, tmp_path / "cache")[0]["image"]
    (entry,) = kept(tmp_path / "cache")
    other = tmp_path / "other"
    content = bytearray(entry.read_bytes())
    content[-1] ^= 255
    other.write_bytes(content)
    entry.unlink()
    entry.symlink_to(other)
    assert torch.equal(dataset_of(tmp_path, tmp_path / "cache")[0]["image"], before), "an entry that is a link is not read"
    assert other.read_bytes() == content and not entry.is_symlink(), "it is replaced, and what it named stays"
    elsewhere = tmp_path / "elsewhere"
    entry.parent.rename(elsewhere)
    entry.parent.symlink_to(elsewhere)
    (elsewhere / entry.name).write_bytes(content)
    assert torch.equal(dataset_of(tmp_path, tmp_path / "cache")[0]["image"], before), "nor one in a folder that is a link"
    assert [path.name for path in elsewhere.iterdir()] == [entry.name]


def test_entries_of_another_user_are_not_read_and_a_pipe_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder(tmp_path / "data", (1, 1))
    dataset = dataset_of(tmp_path, tmp_path / "cache")
    before = dataset[0]["image"]
    (entry,) = kept(tmp_path / "cache")
    content = bytearray(entry.read_bytes())
    content[-1] ^= 255
    entry.write_bytes(content)
    assert not torch.equal(dataset[0]["image"], before), "one's own are read as they are"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert torch.equal(dataset[0]["image"], before)
    monkeypatch.undo()
    entry.unlink()
    os.mkfifo(entry)
    assert torch.equal(dataset[0]["image"], before)
