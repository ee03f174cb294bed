"""Temporary files of killed processes are taken away by the next start, and nothing else is."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.configs.errors import UserError
from phalanx.dist.processes import scratch
from tests.support.running import clean_environment

# What torchrun, W&B and loader processes leave, in a process that tells its folder and waits, with a forked one of its own.
LEAVES = """
import os, signal, sys, tempfile
from phalanx.dist.processes import scratch
with scratch.used():
    for name in ("torchelastic_", "pymp-"):
        tempfile.mkdtemp(prefix=name)
    tempfile.mkdtemp(suffix="wandb-media")
    child = os.fork()
    print(os.environ["TMPDIR"], child, flush=True) if child else signal.pause()
    sys.stdin.read()
"""


@pytest.fixture
def outer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short one: sockets lie in TMPDIR."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(name)


def test_what_a_killed_process_left_is_taken_away_once_nobody_of_it_is_left(outer: Path) -> None:
    command = [sys.executable, "-c", LEAVES]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=clean_environment(TMPDIR=str(outer)), text=True, **pipes) as process:  # type: ignore[call-overload]
        folder, child = process.stdout.readline().split()
        assert Path(folder).parent == outer and os.listdir(outer) == [Path(folder).name]
        scratch.sweep(outer)
        assert len(os.listdir(folder)) == 4  # it lives
        process.kill()
        process.wait()
        scratch.sweep(outer)
        assert len(os.listdir(folder)) == 4  # its child does
        os.kill(int(child), signal.SIGKILL)
        process.stdout.read()  # until that has ended
        with scratch.opened() as new:
            assert os.listdir(outer) == [new.name]
    assert not os.listdir(outer)


def test_nothing_is_taken_away_that_is_not_provably_ours_and_forsaken(outer: Path) -> None:
    with scratch.opened() as open_one:
        name = open_one.name[:-8]
        kept = {which: outer / f"{name}{number:08x}" for number, which in enumerate(("no lock", "readable", "linked"))}
        kept |= {
            "another boot": outer / "phalanx-ffffffff-00000000",
            "another name": outer / f"{name}mine",
            "link": outer / "real",
        }
        for folder in kept.values():
            folder.mkdir(mode=0o700)
            (folder / ".lock").touch()
        (kept["no lock"] / ".lock").unlink()
        kept["readable"].chmod(0o755)
        (kept["linked"] / ".lock").rename(outer / "lock")
        (kept["linked"] / ".lock").symlink_to(outer / "lock")
        (outer / f"{name}ffffffff").symlink_to(kept["link"])
        forsaken = outer / f"{name}aaaaaaaa"
        forsaken.mkdir(mode=0o700)
        (forsaken / ".lock").touch()
        scratch.sweep(outer)
        assert not forsaken.exists() and open_one.exists()
        assert [which for which, folder in kept.items() if not folder.exists()] == []


def test_a_rank_uses_the_folder_of_the_command_that_started_it(outer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with scratch.used():
        inner = tempfile.gettempdir()
        assert Path(inner).parent == outer and os.environ["TMPDIR"] == inner
        assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).parent == outer  # what was compiled stays for the next run
        with scratch.used():
            assert tempfile.gettempdir() == inner and os.listdir(outer) == [Path(inner).name]
        assert Path(inner).exists()
    assert not os.listdir(outer) and tempfile.gettempdir() == str(outer) and "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_a_folder_that_cannot_be_made_is_one_sentence_and_ends_no_rank(outer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(outer / "gone"))
    with (
        pytest.raises(UserError, match="no temporary folder can be made: No such file"),
        scratch.opened(),
    ):
        pass
    with scratch.used():
        assert os.environ["TMPDIR"] == str(outer)
