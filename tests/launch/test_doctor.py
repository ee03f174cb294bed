"""`phalanx doctor`: it finds what is amiss, says what to do about it, and its own small run survives."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.launch.doctor_checks import disk, machine, services, software
from phalanx.launch.doctor_checks.diagnosis import Diagnosis
from phalanx.launch.main import main
from tests.support.running import phalanx


def _levels(found: Iterator[Diagnosis]) -> dict[str, str]:
    return {one.check: one.level for one in found}


def test_here_nothing_is_red_and_a_killed_run_is_resumed(tmp_path: Path) -> None:
    told = json.loads(phalanx("doctor", "--json", "--nproc", "2", cwd=tmp_path).output.splitlines()[-1])
    found = {one["check"]: one for one in told["found"]}
    assert "red" not in {one["level"] for one in found.values()}, told
    assert found["ranks"]["level"] == "green" and "2 ranks over gloo" in found["ranks"]["said"]
    assert found["kill and resume"]["level"] == "green" and "the same bits" in found["kill and resume"]["said"]
    assert not list(tmp_path.iterdir())
    assert all(one["remedy"] for one in found.values() if one["level"] != "green")


def test_quickly_it_prints_a_line_for_each_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("green", "yellow", "red") for line in lines) and len(lines) >= 7
    assert any("GPUs: there is none" in line for line in lines) or any("CUDA" in line for line in lines)


def test_a_package_that_is_too_old_or_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _levels(software.software())["packages"] == "green"
    needed = ["torch>=99", "nowhere", "timm>=1.0; extra == 'timm'", "nothing; extra == 'other'"]
    monkeypatch.setattr(software.metadata, "requires", lambda name: needed)
    found = {one.check: one for one in software.software()}
    assert found["packages"].level == "red"
    assert "torch" in found["packages"].said and ">=99 is needed" in found["packages"].said
    assert "nowhere is not installed" in found["packages"].said


def test_a_machine_that_lacks_something_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.resource, "getrlimit", lambda which: (256, 1024))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: {0})
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine, "count_gpus", lambda: 3)
    found = {one.check: one for one in machine.machine()}
    assert found["open files"].level == "yellow" and "4096" in found["open files"].remedy
    assert found["cores"].said == "1 of 64 cores may be used"
    assert found["GPUs"].level == "red" and "3 are there, but torch" in found["GPUs"].said


def test_a_disk_that_cannot_be_written_is_red(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = _levels(disk.disk(tmp_path / "runs", on_slurm=False))
    assert found[f"disk of {tmp_path / 'runs'}"] in ("green", "yellow") and not (tmp_path / "runs").exists()
    assert _levels(disk.disk(Path("/proc/sys/runs"), on_slurm=False)) == {"disk of /proc/sys/runs": "red"}
    assert _levels(disk.disk(Path("/dev/shm/runs"), on_slurm=True))["shared disk"] == "red"

    def unsupported(source: object, target: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(disk.os, "link", unsupported)
    assert _levels(disk.disk(tmp_path, on_slurm=False))["hard links"] == "red"


def test_without_slurm_nothing_is_said_of_it_and_a_partition_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert list(services.slurm()) == []
    assert main(["doctor", "--slurm", "gpu"]) == 2 and "the command is not found" in capsys.readouterr().err
