"""`benchmarks/gpu.py`: what goes wrong in a check is reported, and the next one runs; on a GPU, if there is one, all hold."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from tests.benchmarks import broken_checks
from tests.support.running import FORGE, ROOT, clean_environment, lines

_LACKING = ("deepspeed", "wandb", "submitit", "sklearn", "tensorboard", "pycocotools")  # on a borrowed machine
_ENDS = {
    "is_killed": "killed",
    "exits": "killed",
    "raises": "raised",
    "hangs": "hung",
    "fails": "failed",
    "not_shown": "not shown",
    "holds": "held",
}


def _run(folder: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """`gpu.py` with checks that go wrong: its exit code, and its lines."""
    forked = FORGE.start(arguments, folder, clean_environment(), function=f"{broken_checks.__name__}:main")
    output, errors = forked.communicate(60)
    assert forked.returncode is not None, errors
    return forked.returncode, [json.loads(line) for line in output.splitlines()]


def test_what_goes_wrong_is_reported_and_the_next_check_runs(tmp_path: Path) -> None:
    code, told = _run(tmp_path, "--pretend", "--output", "found.jsonl")
    assert code == 1 and told == lines(tmp_path / "found.jsonl")
    ended = {line["check"]: line for line in told if "status" in line}
    assert {name: line["status"] for name, line in ended.items()} == _ENDS
    assert {name for name, line in ended.items() if line["ok"]} == {"not_shown", "holds"}
    assert "SIGKILL" in ended["is_killed"]["error"] and "exit code 3" in ended["exits"]["error"]
    assert "a sentence of its own" in ended["raises"]["error"] and "in raises" in ended["raises"]["said"]
    assert "in hangs" in ended["hangs"]["said"], "where it hangs is in its log"
    assert f"{ROOT}/" not in json.dumps(told), "no folder of this machine is published"
    assert ended["holds"]["figures"] == {"pretended": True}
    parts = [line for line in told if "part" in line]
    assert [(line["check"], line["part"], line["figures"]) for line in parts] == [("is_killed", "before", {"figure": 1})]

    code, told = _run(tmp_path, "--pretend", "--output", "found.jsonl")
    again = [line["check"] for line in told if "status" in line]
    assert code == 1 and again == [name for name in _ENDS if name not in ("not_shown", "holds")]

    code, told = _run(tmp_path, "--pretend", "--output", "found.jsonl", "--only", "holds", "--again", "--minutes", "0")
    assert code == 1 and told[0]["status"] == "not run"


def test_every_check_is_there_and_has_a_name_of_its_own() -> None:
    assert len({check.name for check in gpu.CHECKS}) == len(gpu.CHECKS)
    for check in gpu.CHECKS:
        module, _, name = check.place.partition(":")
        __import__(module)
        assert callable(getattr(sys.modules[module], name)), check.place


def test_the_checks_need_only_what_a_borrowed_machine_has(tmp_path: Path) -> None:
    """And wheels: what is in their folder can be imported, by the checks too."""
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in _LACKING)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{hidden}")
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--device", "cpu", "--smoke", "--only"]
    command += ["fp32 is not tf32", "waits: segmentation"]
    environment = clean_environment(PYTHONPATH=str(tmp_path))
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_all_checks_hold_on_this_gpu(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--output", str(tmp_path / "found.jsonl"), "--minutes", "15"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stdout + done.stderr
