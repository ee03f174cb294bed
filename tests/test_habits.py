"""No tool skips `dist/`, which many take for build output; the wheel holds every room."""

import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.support.running import ROOT, clean_environment

BIN = Path(sys.executable).parent


def _output(*command: str | Path, cwd: Path = ROOT, expect: int | None = 0) -> str:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=clean_environment(), timeout=170
    )
    assert expect is None or done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_linter_and_the_formatter_read_dist() -> None:
    files = _output(BIN / "ruff", "check", "--show-files").splitlines()
    assert str(ROOT / "dist/engine.py") in files and str(ROOT / "tests/dist/test_engine.py") in files


def test_the_linter_refuses_the_alias_that_hides_dist(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import torch.distributed as dist\n\ndist.barrier()\n")
    said = _output(BIN / "ruff", "check", "--config", ROOT / "pyproject.toml", tmp_path / "bad.py", expect=1)
    assert "ICN002" in said


def test_the_type_checker_reads_dist() -> None:
    assert "phalanx.dist.engine" in _output(BIN / "mypy", "--verbose")


def test_pytest_collects_tests_of_dist(request: pytest.FixtureRequest) -> None:
    """By default it descends into no folder of this name."""
    assert not [pattern for pattern in request.config.getini("norecursedirs") if fnmatch("dist", pattern)]


def test_coverage_reports_dist(tmp_path: Path) -> None:
    data = f"--data-file={tmp_path}/coverage"
    program = "import phalanx.dist.processes.environment"
    (tmp_path / "program.py").write_text(program)
    _output(BIN / "coverage", "run", data, "--rcfile", ROOT / "pyproject.toml", tmp_path / "program.py")
    _output(BIN / "coverage", "combine", data, tmp_path, expect=None)
    assert "dist/processes/environment.py" in _output(BIN / "coverage", "report", data, "--rcfile", ROOT / "pyproject.toml")


def test_git_ignores_no_room() -> None:
    for room in ("configs", "dist", "models", "data", "train", "launch", "slurm", "tests"):
        ignored = subprocess.run(["git", "check-ignore", "-q", f"{room}/new.py"], cwd=ROOT, timeout=10)
        assert ignored.returncode != 0, room


@pytest.mark.slow
def test_the_wheel_and_the_source_archive_hold_every_room(tmp_path: Path) -> None:
    _output(sys.executable, "-m", "build", "--outdir", tmp_path, ".")
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("dist/engine.py", "configs/recipes/digits_resnet18.yaml", "models/registry.py", "launch/main.py", "py.typed"):
        assert f"phalanx/{name}" in names
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        assert any(name.endswith("phalanx/dist/engine.py") for name in source.getnames())
