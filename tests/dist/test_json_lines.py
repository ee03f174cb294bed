"""JSONL files: whole lines through kills and full disks, and read past whatever else became of them."""

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from phalanx.configs.errors import UserError
from phalanx.dist.checkpoint import manifest
from phalanx.dist.storage import json_lines
from phalanx.dist.storage.durable_files import read_json_object
from phalanx.dist.storage.json_lines import JsonLines, cut_back, join_last, read_lines

BROKEN = {
    "blank": b"\n",
    "torn": b'{"step": 2, "lo\n',
    "NULs": b"\0\0\0\0{}\n",
    "Latin-1": '{"step": 2, "said": "Größe"}\n'.encode("latin-1"),
    "UTF-16": '{"step": 2}'.encode("utf-16") + b"\n",
    "no object": b"[2]\n",
    "a word": b'"step"\n',
    "no step": b'{"time": 2.0}\n',
    "a step that is text": b'{"step": "2"}\n',
    "a step that is a truth value": b'{"step": true}\n',
    "a number of 5,000 digits": b'{"step": ' + b"9" * 5000 + b"}\n",
    "nested too deep": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_skipped_and_reported_once(line: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'{"step": 3}\n')
    for _ in range(2):
        assert [found["step"] for found in read_lines(path, step=int)] == [1, 3]
    said = capsys.readouterr().err
    assert said.startswith((f"phalanx: {path}: line ", f"phalanx: {path}: 2 lines"))
    assert said.count("was skipped") == 1

    JsonLines(path).close()
    join_last(path, {"step": 3, "val/loss": 0.5})
    cut_back(path, 3)
    assert path.read_bytes().splitlines() == [b'{"step": 1}', b'{"step": 3, "val/loss": 0.5}']


def test_figures_that_are_no_numbers_come_back_as_they_were() -> None:
    line = json.loads(json_lines.as_line({"step": 1, "a": float("nan"), "b": {"c": [float("-inf")]}}))
    assert line == {"step": 1, "a": "nan", "b": {"c": ["-inf"]}}
    assert str(json_lines.number(line["a"])) == "nan" and json_lines.number("-inf") == float("-inf")
    assert [json_lines.number(value) for value in (None, "1", True, [1], 10**400)] == [None] * 5


def test_on_a_full_disk_lines_are_whole_and_come_once_there_is_room(small_disk: Path) -> None:
    path, filler = small_disk / "lines.jsonl", small_disk / "filler"
    lines = JsonLines(path)
    assert lines.append({"step": 0}) is None
    with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:  # no space left
        while file.write(bytes(4096)):
            pass
    problems = [lines.append({"step": step, "text": "x" * 300}) for step in range(1, 40)]
    assert problems[0] is None and problems[-1] is not None and problems[-1].filename == str(path)
    known = path.read_bytes()
    assert known.endswith(b"\n") and 1 < len(known.splitlines()) < 40 and all(map(json.loads, known.splitlines()))
    with pytest.raises(OSError, match=r"lines\.jsonl"):
        lines.sync()
    filler.unlink()
    lines.sync()
    lines.close()
    assert [line["step"] for line in read_lines(path)] == list(range(40))


def test_a_link_planted_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "lines.jsonl").symlink_to(target)
    with pytest.raises(UserError, match=r"lines\.jsonl: this is a link"):
        JsonLines(tmp_path / "lines.jsonl")
    assert target.read_text() == "precious"


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as new, contextlib.chdir(path.parent):
        new.bind(path.name)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_folder, _pipe, _socket, _device])
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "lines.jsonl"
    make(path)
    with pytest.raises(UserError, match=r"lines\.jsonl: this is a (folder|pipe or a device|socket)\."):
        list(read_lines(path))
    with pytest.raises(
        UserError, match=r"lines\.jsonl: this is a (folder|pipe or a device|socket|link, which is not followed)\."
    ):
        JsonLines(path)
    for read in (read_json_object, manifest.read):
        with pytest.raises((ValueError, OSError, manifest.BrokenCheckpoint)):
            read(path)


def test_a_line_without_end_is_skipped_in_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "_LONGEST", 64)
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"\0" * 1000 + b'\n{"a": 2}\n' + b"\0" * 640)
    assert [line["a"] for line in read_lines(path)] == [1, 2]


def test_a_hole_larger_than_any_disk_is_skipped_and_cut_away(tmp_path: Path) -> None:
    path, size = tmp_path / "metrics.jsonl", 1 << 42
    path.write_bytes(b'{"step": 1}\n')
    os.truncate(path, size)
    assert list(read_lines(path, step=int)) == [{"step": 1}]
    with open(path, "r+b") as file:
        file.seek(size)
        file.write(b'\n{"step": 2}\n')
    assert [line["step"] for line in read_lines(path, step=int)] == [1, 2]
    os.truncate(path, size)
    JsonLines(path).close()
    assert path.read_bytes() == b'{"step": 1}\n'
