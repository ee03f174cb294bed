"""Files that survive a kill: whole lines, whole files."""

from pathlib import Path

import pytest

from phalanx.dist.files import JsonLines, cut_back, read_lines, write_atomically


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
