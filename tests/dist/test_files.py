"""Files that survive a kill: whole lines, whole files."""

import os
from pathlib import Path

import pytest

from phalanx.dist.storage import durable_files
from phalanx.dist.storage.durable_files import write_atomically
from phalanx.dist.storage.json_lines import JsonLines, cut_back, read_lines


def test_lines_are_whole_and_a_torn_one_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = JsonLines(path)
    for step in (1, 2):
        lines.append({"step": step, "loss": 0.1 * step})
    lines.close()
    with open(path, "ab") as file:
        file.write(b'{"step": 3, "lo')  # a kill in mid-write
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    again = JsonLines(path)
    again.append({"step": 3, "loss": float("inf"), "other": float("nan")})
    again.close()
    assert list(read_lines(path))[-1] == {"step": 3, "loss": "inf", "other": "nan"}


def test_cutting_back_keeps_what_is_not_later(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = JsonLines(path)
    for step in range(1, 6):
        lines.append({"step": step})
    lines.close()
    cut_back(path, 3)
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3]
    cut_back(tmp_path / "missing.jsonl", 3)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, 3)  # type: ignore[arg-type]
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_temporary_names_cannot_be_foreseen_and_never_follow_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, path = tmp_path / "precious", tmp_path / "file"
    target.write_text("precious")
    made = []
    with open(durable_files.create_aside(path)[0]), open(durable_files.create_aside(path)[0]):
        made = sorted(tmp_path.glob(".file.*.tmp"))
    assert len(made) == 2 and all(str(os.getpid()) not in p.name for p in made)
    (tmp_path / ".file.planted.tmp").symlink_to(target)
    monkeypatch.setattr("secrets.token_hex", lambda count: "planted")  # as if somebody had guessed it
    with pytest.raises(FileExistsError):
        write_atomically(path, "new")
    assert target.read_text() == "precious" and not path.exists()


def test_what_a_kill_left_long_ago_under_a_temporary_name_is_removed(tmp_path: Path) -> None:
    with open(durable_files.create_aside(tmp_path / "old")[0]), open(durable_files.create_aside(tmp_path / "new")[0]):
        (old,) = tmp_path.glob(".old.*.tmp")
    os.utime(old, (1, 1))
    others = {tmp_path / ".mine.tmp", tmp_path / "file"}
    for path in others:
        path.touch()
        os.utime(path, (1, 1))
    durable_files.remove_forgotten(tmp_path)
    assert {p for p in tmp_path.iterdir() if not p.name.startswith(".new.")} == others
