"""`benchmarks/gpu.py`: on a GPU where there is one; and that the script itself needs no more than it says."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from phalanx.configs.load import load
from tests.support.running import DIGITS, ROOT, run


def test_its_settings_are_the_schema_s_defaults() -> None:
    assert load([DIGITS]).dist.model_dump() == gpu.DIST


@pytest.mark.slow
def test_the_script_runs_where_there_are_only_torch_torchvision_and_accelerate(tmp_path: Path) -> None:
    """Tried on the CPU. What a bare machine lacks cannot be imported; what is optional is not."""
    absent = ("pydantic", "xxhash", "sklearn")
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nfor name in {absent}:\n    sys.modules[name] = None\n")
    command = [sys.executable, "-X", "importtime", ROOT / "benchmarks/gpu.py", "--device", "cpu"]
    done = run(command, tmp_path, PYTHONPATH=str(tmp_path))
    report: dict[str, Any] = json.loads(done.output)
    assert report["held"] and len(report["checks"]) == len(gpu.CHECKS)
    imported = {line.rpartition("|")[2].strip() for line in done.errors.splitlines() if line.startswith("import time:")}
    assert "torch" in imported and not imported & {"deepspeed", "wandb", "submitit", "phalanx.configs.schema"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("check", gpu.CHECKS, ids=lambda check: check.__name__)
def test_a_check_holds_on_this_gpu(check: gpu.Check) -> None:
    held, figures = check(gpu.Bench("cuda"))
    assert held, figures
